"""Settings that train together: to the results of `fit`, whatever trains beside them."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pytest
import torch
from conftest import EXPERIMENTS
from torch import Tensor

import train_mosi
from search.jobs import chunks
from training.parameters import Sizes, sizes
from training.reference import fit, initial_model
from training.result import Data, Limits, Result, Task
from training.setting import Setting
from training.stacked import Job, Stack, fit_stacked
from training.words import Words
from utils import Split

AUDIO, VIDEO, TEXT, STEPS = 7, 5, 9, 6
PLAIN = Setting(4, 3, 40, 0.1, 0.5, 0.15, 0.003, 0.003, 4, 5, 0.01)
LARGE = PLAIN._replace(text_hidden=250, batch_size=17)
BASES = {"small": PLAIN, "large": LARGE}
LIMITS = Limits(8, 2)

# Sums in another order differ by 1e-7 of the largest term, and Adam divides by the gradient's own
# size: where it is small beside its terms, each step (3e-3 at most) is off by 1e-3 of itself.
close_weights = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-3)
close_losses = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4, equal_nan=True)

each_base = pytest.mark.parametrize("base", BASES.values(), ids=list(BASES))
each_way = pytest.mark.parametrize("on_gpu", [False, True], ids=["cpu", "gpu"])  # its way, here


class Work(NamedTuple):
    """A data set and what is to be trained on it."""

    data: Data
    task: Task


def make_work(name: str = "mosi", train: int = 23, padding: str = "front", valid: int = 9) -> Work:
    """Returns a tiny data set whose text has zero frames in front, behind, nowhere or only."""
    generator = torch.Generator().manual_seed(5)

    def split(count: int) -> Split:
        audio, visual, text = (
            torch.randn(count, *shape, generator=generator)
            for shape in ((AUDIO,), (VIDEO,), (STEPS, TEXT))
        )
        for i, example in enumerate(text):
            zeros = i * 5 % (STEPS + 1)
            span = {"front": slice(zeros), "behind": slice(STEPS - zeros, None)}
            example[span.get(padding, slice(STEPS if padding == "only" else 0))] = 0
        if name == "iemocap":
            label = torch.eye(2)[torch.arange(count) % 3 // 2]
        else:
            columns = {"mosi": 1, "pom": 16}[name]
            label = torch.rand(count, columns, generator=generator) * 6 - 2.4
        return Split(audio, visual, text, label)

    data = Data(split(train), split(valid), split(11))
    return Work(data, EXPERIMENTS[name].task(data))


def drawn(count: int, base: Setting, seed: int = 1) -> list[Job]:
    """Returns settings that differ in all but what makes them share a stack with the base."""
    draw = random.Random(seed)
    narrow = (base.text_hidden - 1) // 64 * 64 + 2
    jobs = []
    for i in range(count):
        values = {name: draw.choice(values) for name, values in train_mosi.GRID.items()}
        values |= {"batch_size": base.batch_size, "learning_rate": draw.choice([0.001, 0.01])}
        values["text_hidden"] = draw.randint(narrow, base.text_hidden)
        jobs.append((Setting(**values), i % 2))
    return jobs


def make_stack(size: Sizes, slots: int, work: Work, limits: Limits, on_gpu: bool) -> Stack:
    texts = work.data.train.text, work.data.valid.text
    words = (Words(texts[0]), Words(texts[1])) if work.data.input_dims[2] else None
    return Stack(size, slots, work.data, words, work.task, limits, on_gpu)


def stacked(
    jobs: Sequence[Job],
    work: Work,
    slots: int | None,
    on_gpu: bool = False,
    limits: Limits = LIMITS,
) -> dict[Job, Result]:
    """Returns what came of each job; each must have come once."""
    if on_gpu:
        (size,) = {sizes(setting) for setting, _ in jobs}
        stack = make_stack(size, slots or len(jobs), work, limits, on_gpu=True)
        found = list(stack.train(iter(jobs)))
    else:
        found = list(fit_stacked(jobs, work.data, work.task, limits, slots=slots))
    results = {(result.setting, result.seed): result for result in found}
    assert len(found) == len(jobs) == len(results)
    assert set(results) == set(jobs)
    return results


def tensors(result: Result) -> dict[str, Tensor]:
    assert result.state_dict is not None
    return result.state_dict


def check_equals_fit(results: dict[Job, Result], work: Work, limits: Limits = LIMITS) -> None:
    for (setting, seed), ours in results.items():
        expected = fit(setting, seed, work.data, work.task, limits)
        assert (ours.status, ours.epochs, ours.best_epoch) == (
            expected.status,
            expected.epochs,
            expected.best_epoch,
        ), setting
        close_losses(torch.tensor(ours.history), torch.tensor(expected.history))
        if expected.status != "ok":
            assert math.isnan(ours.valid_loss) == (expected.status == "diverged")
            assert (ours.scores, ours.state_dict) == ({}, None)
            continue
        assert ours.valid_loss == min(valid for _, valid in ours.history)
        assert ours.scores == pytest.approx(expected.scores, abs=1e-4, nan_ok=True), setting
        close_weights(tensors(ours), tensors(expected))


def check_identical(one: Result, other: Result) -> None:
    assert one._replace(seconds=0, state_dict=None, scores={}) == other._replace(
        seconds=0, state_dict=None, scores={}
    )
    assert one.scores == pytest.approx(other.scores, rel=0, abs=0, nan_ok=True)
    for name, value in tensors(one).items():
        assert torch.equal(value, tensors(other)[name]), name


@each_way
@each_base
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_stack_trains_each_setting_as_fit_does(name: str, base: Setting, on_gpu: bool) -> None:
    work = make_work(name)
    jobs = drawn(6, base)
    results = stacked(jobs, work, slots=2, on_gpu=on_gpu)  # the others wait
    assert len({result.epochs for result in results.values()}) > 1
    assert len({(s.rank, s.audio_hidden, s.text_hidden) for s, _ in jobs}) > 4
    check_equals_fit(results, work)


@each_way
@pytest.mark.parametrize("kept", ["a", "v", "t", "av", "at", "vt"])
def test_any_modalities_are_trained_as_fit_does(kept: str, on_gpu: bool) -> None:
    whole = make_work()
    splits = []
    for split in whole.data:
        parts = {"a": split.audio, "v": split.visual, "t": split.text}
        audio, visual, text = (x if part in kept else x[..., :0] for part, x in parts.items())
        splits.append(Split(audio, visual, text, split.label))
    work = Work(Data(*splits), whole.task)
    results = stacked(drawn(4, PLAIN), work, slots=2, on_gpu=on_gpu)
    assert len({len(tensors(result)) for result in results.values()}) == 1
    check_equals_fit(results, work)


@each_way
@pytest.mark.parametrize("padding", ["nowhere", "only", "behind"])
def test_any_padding_is_trained_as_fit_does(padding: str, on_gpu: bool) -> None:
    work = make_work(padding=padding)
    jobs = drawn(3, PLAIN, seed=2)
    check_equals_fit(stacked(jobs, work, slots=2, on_gpu=on_gpu), work)


@each_way
@pytest.mark.parametrize(
    ("train", "batch_size", "text_hidden"),
    [(23, 11, 40), (23, 7, 256), (23, 22, 64), (23, 18, 64), (23, 64, 64), (2, 2, 40), (65, 32, 9)],
)
def test_any_last_batch_is_trained_as_fit_does(
    train: int, batch_size: int, text_hidden: int, on_gpu: bool
) -> None:
    work = make_work(train=train)
    jobs = drawn(2, PLAIN._replace(batch_size=batch_size, text_hidden=text_hidden), seed=3)
    limits = Limits(3, 3)
    results = stacked(jobs, work, slots=2, on_gpu=on_gpu, limits=limits)
    check_equals_fit(results, work, limits)


@each_way
def test_a_valid_split_of_any_length_is_scored_as_fit_does(on_gpu: bool) -> None:
    work = make_work(valid=150)
    results = stacked(drawn(2, PLAIN), work, slots=2, on_gpu=on_gpu, limits=Limits(2, 2))
    check_equals_fit(results, work, Limits(2, 2))


def test_settings_of_all_sizes_are_trained_in_one_call() -> None:
    work = make_work()
    jobs = [
        (PLAIN._replace(batch_size=batch_size, text_hidden=text_hidden, rank=rank), 0)
        for batch_size in (5, 17)
        for text_hidden in (2, 65)
        for rank in (1, 17)
    ]
    check_equals_fit(stacked(jobs, work, slots=None, limits=Limits(3, 3)), work, Limits(3, 3))


@each_way
def test_a_stack_prunes_each_setting_as_fit_does(on_gpu: bool) -> None:
    work, jobs = make_work(), drawn(6, PLAIN)
    full = stacked(jobs, work, slots=2, on_gpu=on_gpu, limits=Limits(5, 5))
    second = sorted(min(valid for _, valid in one.history[:2]) for one in full.values())
    limits = Limits(5, 5, ((2, (second[2] + second[3]) / 2),))
    results = stacked(jobs, work, slots=2, on_gpu=on_gpu, limits=limits)
    ends = sorted((result.status, result.epochs) for result in results.values())
    assert ends == [*[("ok", 5)] * 3, *[("pruned", 2)] * 3]
    check_equals_fit(results, work, limits)


@each_way
@each_base
def test_a_setting_that_diverges_leaves_the_others_alone(base: Setting, on_gpu: bool) -> None:
    work = make_work()
    jobs = drawn(5, base)
    huge = (base._replace(learning_rate=1e30), 0)
    results = stacked([jobs[0], huge, *jobs[1:]], work, slots=2, on_gpu=on_gpu)
    assert results[huge].status == "diverged"
    check_equals_fit(results, work)
    for job, alone in stacked(jobs, work, slots=2, on_gpu=on_gpu).items():
        check_identical(alone, results[job])


def grown(work: Work, base: Setting) -> Iterator[tuple[Stack, int, Setting, set[str]]]:
    """Yields a stack in training, with each of its slots and the names of its rows."""
    for on_gpu in (False, True):
        settings = [base._replace(audio_hidden=n, video_hidden=17 - n, rank=n) for n in (1, 7, 16)]
        settings = [
            s._replace(text_hidden=base.text_hidden - 2 * i) for i, s in enumerate(settings)
        ]
        stack = make_stack(sizes(settings[0]), 3, work, Limits(4, 4), on_gpu)
        list(stack.train((setting, 0) for setting in settings))
        for slot, setting in enumerate(settings):
            kept = {"grads"} if on_gpu else set()  # on a CPU members' LSTMs share a row of them
            yield stack, slot, setting, kept | {"weights", "first", "second", "best"}


@each_base
def test_padded_units_stay_exactly_zero_in_weights_gradients_and_moments(base: Setting) -> None:
    work = make_work()
    for stack, slot, setting, names in grown(work, base):
        model = initial_model(setting, 0, work.data.input_dims, 1).state_dict()
        ones = {name: torch.ones_like(value) for name, value in model.items()}
        own = torch.empty(stack.parameters.width)
        stack.parameters.pack(own, ones)
        assert 0 < own.sum() < len(own)
        for name in names:
            row = getattr(stack.all_slots, name)[slot]
            assert not row[own == 0].any(), name
            assert row[own == 1].count_nonzero() > 0.5 * own.sum(), name


@each_way
@each_base
def test_a_result_is_the_same_bit_for_bit_for_any_number_of_slots_and_any_neighbours(
    base: Setting, on_gpu: bool
) -> None:
    work = make_work()
    jobs = drawn(5, base)
    alone = stacked(jobs, work, slots=1, on_gpu=on_gpu)
    for order, slots in ((jobs, 2), (jobs[::-1], 4)):
        for job, result in stacked(order, work, slots, on_gpu=on_gpu).items():
            check_identical(result, alone[job])
    check_identical(stacked(jobs[:1], work, 3, on_gpu=on_gpu)[jobs[0]], alone[jobs[0]])


@pytest.mark.parametrize(("batch_size", "text_hidden"), [(4, 64), (16, 64), (32, 128), (64, 256)])
def test_results_of_real_sizes_are_the_same_bit_for_bit_in_any_stack(
    batch_size: int, text_hidden: int
) -> None:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        text = torch.randn(count, 5, 300, generator=generator)
        shapes = (count, 74), (count, 46), (count, 1)
        audio, visual, label = (torch.randn(shape, generator=generator) for shape in shapes)
        return Split(audio, visual, text, label)

    data = Data(split(70), split(20), split(5))
    work = Work(data, EXPERIMENTS["mosi"].task(data))
    base = PLAIN._replace(batch_size=batch_size, text_hidden=text_hidden)
    jobs = [(base._replace(audio_hidden=4 << i % 3, rank=1 + i), 0) for i in range(3)]
    limits = Limits(2, 2)
    alone = stacked(jobs, work, 1, limits=limits)
    for job, result in stacked(jobs, work, 3, limits=limits).items():
        check_identical(result, alone[job])


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    stacked(drawn(3, PLAIN), make_work(), 2)
    assert torch.equal(torch.rand(4), expected)


def test_results_come_when_settings_end_and_each_epoch_is_told() -> None:
    work, jobs = make_work(), drawn(5, PLAIN)
    told: dict[Job, list[tuple[int, float, float]]] = {job: [] for job in jobs}
    limits = Limits(12, 2)

    def on_epoch(setting: Setting, seed: int, epoch: int, train: float, valid: float) -> None:
        told[setting, seed].append((epoch, train, valid))

    results = fit_stacked(jobs, work.data, work.task, limits, slots=2, on_epoch=on_epoch)
    first = next(results)
    assert sum(map(len, told.values())) <= 2 * first.epochs  # no other pair has begun
    for result in [first, *results]:
        epochs = told[result.setting, result.seed]
        assert [epoch for epoch, *_ in epochs] == list(range(1, result.epochs + 1))
        assert [(train, valid) for _, train, valid in epochs] == result.history
        assert result.seconds > 0


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 30, 500])
def test_chunks_hold_every_job_once_and_settings_of_one_size(count: int, workers: int) -> None:
    draw = random.Random(0)
    jobs = [
        (PLAIN._replace(batch_size=draw.choice([4, 8]), text_hidden=draw.choice([64, 256])), seed)
        for seed in range(count)
    ]
    found = list(chunks(iter(jobs), count, lambda: workers, lambda size: 512 // size.text))
    assert sorted(job for chunk in found for job in chunk) == sorted(jobs)
    for chunk in found:
        (size,) = {sizes(setting) for setting, _ in chunk}
        assert len(chunk) <= 4 * 512 // size.text
    left = count
    for chunk in found:  # there must be work for all workers to the end
        assert workers == 1 or len(chunk) <= max(1, math.ceil(left / (2 * workers)))
        left -= len(chunk)
    if workers == 1:  # no chunk is smaller than it must be
        members = Counter(sizes(setting) for setting, _ in jobs)
        assert len(found) == sum(-(-n // (4 * 512 // size.text)) for size, n in members.items())
    if count == 500:
        assert len(found[0]) >= 8
        assert len(found) < 200


def test_chunks_are_full_although_sizes_are_mixed() -> None:
    draw = random.Random(0)
    grid = train_mosi.GRID
    jobs = (
        (Setting(**{name: draw.choice(values) for name, values in grid.items()}), seed)
        for seed in range(100_000)
    )
    work = chunks(jobs, 100_000, lambda: 8, lambda _: 4)
    assert [len(next(work)) for _ in range(100)] == [16] * 100


def test_chunks_draw_few_jobs_in_advance() -> None:
    drawn_jobs = []

    def endless() -> Iterator[Job]:
        for seed in range(10**9):
            drawn_jobs.append(seed)
            yield PLAIN._replace(batch_size=2 + seed % 200), seed

    work = chunks(endless(), 10**9, lambda: 2, lambda _: 8)
    given = len(next(work))
    assert len(drawn_jobs) <= 24 * 32
    given += sum(len(next(work)) for _ in range(99))
    assert len(drawn_jobs) - given <= 24 * 32


def test_settings_share_a_stack_by_what_they_are_alone() -> None:
    assert sizes(PLAIN) == Sizes(5, 16, 16, 64, 16)
    assert sizes(PLAIN._replace(rank=16, audio_hidden=16, text_hidden=64)) == sizes(PLAIN)
    assert sizes(PLAIN._replace(rank=17)) == Sizes(5, 16, 16, 64, 32)
    assert sizes(PLAIN._replace(batch_size=6)) != sizes(PLAIN)
