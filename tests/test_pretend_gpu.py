"""The way of a GPU, on a pretend one or without any: what needs a real one is in test_gpu.py."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from conftest import EXPERIMENTS
from pretend_gpu import CUDA, NAME, SETUP, Mode, set_up
from test_stacked import (
    LIMITS,
    PLAIN,
    Work,
    check_equals_fit,
    drawn,
    make_stack,
    make_work,
    stacked,
)
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search.jobs import out_of_memory
from training import graphs
from training import stacked as stacked_module
from training.memory import bytes_per_member
from training.parameters import Sizes, sizes
from training.result import Data, Limits, Task
from training.stacked import Stack, fit_stacked
from training.words import Words
from utils import InputError, Split

if hasattr(backend_registration, SETUP):  # before any test: autograd counts devices only once
    set_up()


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a pretend GPU of that name, on which steps are captured."""
    if not hasattr(backend_registration, SETUP):
        pytest.skip("this torch can't have a device in Python")
    monkeypatch.setattr(graphs, "CAPTURED_ON", NAME)
    for name, value in CUDA.items():
        monkeypatch.setattr(torch.cuda, name, value)


def train(work: Work, slots: int) -> None:
    """Trains on the pretend GPU, and holds the results against `fit` on the CPU."""
    jobs, limits = drawn(6, PLAIN), Limits(6, 2)
    with Mode():
        data = work.data.to(NAME)
        words = Words(data.train.text), Words(data.valid.text)
        stack = Stack(sizes(PLAIN), slots, data, words, work.task, limits, on_gpu=True)
        found = list(stack.train(iter(jobs)))
    assert len({result.epochs for result in found}) > 1  # so that slots are given up
    check_equals_fit({(result.setting, result.seed): result for result in found}, work, limits)


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_captured_steps_that_are_replayed_train_as_fit_does(name: str) -> None:
    train(make_work(name, train=23), slots=4)


FAULTS = {  # what a step might do to its masks, and what the pretend GPU says of it
    "mixes devices": lambda mask: mask * torch.ones(mask.shape),
    "waits for the GPU": lambda mask: mask * float(mask.max() > 0),
    "gives to it": lambda mask: mask.cpu().to(mask.device),
    "takes from the host": lambda mask: mask * torch.tensor(1.0),
}


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("said", FAULTS)
def test_a_step_that_cuda_would_not_capture_is_found(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = Stack._masks

    def faulty(stack: Stack, positions: Tensor) -> dict[str, Tensor]:
        return {name: FAULTS[said](mask) for name, mask in masks(stack, positions).items()}

    monkeypatch.setattr(Stack, "_masks", faulty)
    with pytest.raises((RuntimeError, InputError), match=said):
        train(make_work(), slots=2)


def unable(reason: str) -> Callable[..., contextlib.nullcontext[None]]:
    """Returns what takes the place of torch.cuda.graph where it fails."""

    def capture(*_: object, **__: object) -> contextlib.nullcontext[None]:
        raise RuntimeError(f"{reason}\nFor debugging, consider another environment variable.")

    return capture


@pytest.mark.usefixtures("pretend")
def test_where_nothing_can_be_captured_a_line_says_how_to_train_without_and_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", unable("CUDA error: not permitted"))
    with pytest.raises(InputError, match=r"CUDA error: not permitted; set LMF_CUDA_GRAPHS=0 .*$"):
        train(make_work(), slots=2)
    monkeypatch.setenv("LMF_CUDA_GRAPHS", "0")
    train(make_work(), slots=2)


@pytest.mark.usefixtures("pretend")
def test_memory_that_runs_out_in_a_capture_is_no_fault_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "graph", unable("CUDA error: out of memory"))
    with pytest.raises(InputError) as raised:
        train(make_work(), slots=2)
    assert "ran out of memory" in str(out_of_memory(raised.value))


class Memory(TorchDispatchMode):
    """Counts the bytes that operations take, at most at a time, beside those there before."""

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.before = {tensor.untyped_storage()._cdata for tensor in before}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.before:
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, self.taken())
        return result

    def taken(self) -> int:
        self.alive = {key: one for key, one in self.alive.items() if not one[0].expired()}
        return sum(size for _, size in self.alive.values())


@pytest.mark.parametrize("text", [64, 128, 256])
@pytest.mark.parametrize("batch_size", [4, 16, 64, 128])
def test_members_need_four_fifths_of_the_memory_that_they_are_given(
    batch_size: int, text: int
) -> None:
    def split(examples: int) -> Split:
        shapes = (examples, 74), (examples, 47), (examples, 20, 300), (examples, 1)
        return Split(*(torch.empty(shape, device="meta") for shape in shapes))  # no values

    work = make_work()
    words = Words(work.data.train.text), Words(work.data.valid.text)
    data = Data(split(1284), split(229), split(686))
    for each, part in zip(words, data, strict=False):
        each.vectors = torch.empty(4000, 304, device="meta")
        each.ids = torch.empty(len(part), 20, dtype=torch.long, device="meta")
        each.padding = torch.empty(len(part), device="meta")
    size, count = Sizes(batch_size, 16, 16, text, 16), 8
    stack = Stack(size, count, data, words, work.task, LIMITS, on_gpu=True)
    assert stack.graphs
    rows = list(stack.all_slots.tensors())
    others = [*stack.features.values(), *data.train[:], stack.graphs.position]
    others += [tensor for each in words for tensor in (each.vectors, each.ids)]
    needed = sum(row.nbytes for row in rows)
    steps, valid = (Memory([*rows, *others]) for _ in range(2))
    with steps:  # what their graph keeps; a last, smaller batch shares it
        stack.graphs.advance(stack._step, batch_size)
    assert not steps.taken()
    with valid:
        stack._valid_loss()
    needed += steps.most + valid.most
    assert 0.6 < needed / count / bytes_per_member(size, data, 1) < 0.8


def test_memory_is_estimated_by_the_outputs_also_if_a_label_is_one_class_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cross_entropy(output: Tensor, label: Tensor) -> Tensor:
        return output.logsumexp(-1) - output.gather(-1, label.long()).squeeze(-1)

    data = make_work().data
    for split in data:
        split.label = split.label.gt(0).float()
    estimates: list[int] = []

    def members_that_fit(*asked: Any) -> int:
        estimates.append(bytes_per_member(*asked))
        return 2

    monkeypatch.setattr(stacked_module, "members_that_fit", members_that_fit)
    for outputs in (2, 50):
        task = Task(outputs, cross_entropy, 1, lambda _: {})
        assert len(list(fit_stacked(drawn(2, PLAIN), data, task, LIMITS))) == 2
    assert estimates[0] < estimates[-1]


def test_settings_that_fit_no_memory_together_are_trained_fewer_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, counts = Stack._start_epoch, []

    def of_little_memory(stack: Stack) -> None:
        counts.append(len(stack.members))
        if len(stack.members) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        start(stack)

    monkeypatch.setattr(Stack, "_start_epoch", of_little_memory)
    work = make_work()
    check_equals_fit(stacked(drawn(7, PLAIN), work, slots=5), work)
    assert counts[:2] == [5, 2]


def test_a_stack_that_is_done_leaves_no_memory_in_use() -> None:
    work = make_work()
    stack = make_stack(sizes(PLAIN), 2, work, Limits(1, 1), on_gpu=True)
    list(stack.train(iter(drawn(2, PLAIN))))
    known = weakref.ref(stack)
    gc.disable()  # CUDA's memory waits for no collection of cycles
    try:
        del stack
        assert known() is None
    finally:
        gc.enable()
