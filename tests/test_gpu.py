"""The way of a GPU on a real one (`make gpu-test`): these tests need CUDA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import EXPERIMENTS, Options, table
from test_stacked import (
    PLAIN,
    Work,
    check_equals_fit,
    check_identical,
    close_losses,
    drawn,
    make_work,
    stacked,
)

import train_mosi
from training import graphs
from training.memory import bytes_per_member
from training.parameters import sizes
from training.result import Data, Limits
from training.setting import Setting
from training.stacked import Job
from utils import Split

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda() -> str:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return "cuda:0"


@pytest.mark.parametrize("text_hidden", [40, 256])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_gpu_trains_each_setting_as_fit_does_on_the_cpu(
    name: str, text_hidden: int, cuda: str
) -> None:
    work = make_work(name)
    jobs = drawn(11, PLAIN._replace(text_hidden=text_hidden))
    on_gpu = Work(work.data.to(cuda), work.task)
    for slots in (8, 3):  # settings wait, and stacks shrink, so that steps are captured again
        results = stacked(jobs, on_gpu, slots)
        assert len({result.epochs for result in results.values()}) > 1
        check_equals_fit(results, work)


def test_training_again_changes_no_digit_nor_do_graphs(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, jobs = make_work(), drawn(6, PLAIN)
    on_gpu = Work(work.data.to(cuda), work.task)
    first = stacked(jobs, on_gpu, 4)
    for graphs_wanted in ("1", "0"):
        monkeypatch.setenv(graphs.SWITCH, graphs_wanted)
        for job, result in stacked(jobs, on_gpu, 4).items():
            check_identical(result, first[job])


@pytest.mark.parametrize("stack", [None, 1])
def test_the_script_writes_the_rows_of_the_cpu(
    stack: int | None, cuda: str, options: Options, tmp_path: Path
) -> None:
    del cuda

    def rows(name: str, **more: object) -> list[dict[str, str]]:
        folder = tmp_path / name
        found = table(train_mosi.main({**options, "output_path": folder, "stack": stack, **more}))
        return sorted(({**row, "Seconds": ""} for row in found), key=lambda row: list(row.values()))

    first = rows("first", cuda=True)
    assert rows("again", cuda=True) == first
    for ours, expected in zip(first, rows("cpu", stack=1), strict=True):
        for column, text in expected.items():
            try:
                assert float(ours[column]) == pytest.approx(float(text), rel=1e-3, abs=1e-3)
            except ValueError:
                assert ours[column] == text


def real_work(base: Setting, count: int, device: str) -> tuple[Work, list[Job]]:
    """Returns random data of MOSI's sizes on a device, and settings that fill a stack."""
    generator = torch.Generator().manual_seed(0)

    def split(examples: int) -> Split:
        shapes = (examples, 74), (examples, 47), (examples, 20, 300), (examples, 1)
        return Split(*(torch.randn(shape, generator=generator) for shape in shapes))

    data = Data(split(1284), split(229), split(686))
    return Work(data.to(device), EXPERIMENTS["mosi"].task(data)), drawn(count, base)


@pytest.mark.parametrize(("batch_size", "text", "count"), [(4, 64, 256), (128, 256, 64)])
def test_memory_is_what_was_estimated_and_is_given_back(
    batch_size: int, text: int, count: int, cuda: str
) -> None:
    base = PLAIN._replace(batch_size=batch_size, text_hidden=text)
    work, jobs = real_work(base, count, cuda)
    torch.cuda.empty_cache()
    before, most = torch.cuda.memory_reserved(), []
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        stacked(jobs, work, count, limits=Limits(3, 3))
        most.append(torch.cuda.max_memory_reserved() - before)
    estimate = count * bytes_per_member(sizes(base), work.data, 1)
    print(f"{count} members: {most[0] / 1e9:.2f} GB, {estimate / 1e9:.2f} were estimated")
    assert most[0] < estimate + 2**28  # cuBLAS and cuDNN have their own, whatever the number
    assert most[1] < most[0] + 2**28


def test_too_little_memory_makes_stacks_smaller(cuda: str) -> None:
    base = PLAIN._replace(batch_size=64, text_hidden=128)
    work, jobs = real_work(base, 32, cuda)
    expected = stacked(jobs, work, 32, limits=Limits(3, 3))
    torch.cuda.empty_cache()
    bound = torch.cuda.memory_reserved() + 12 * bytes_per_member(sizes(base), work.data, 1)
    torch.cuda.set_per_process_memory_fraction(bound / torch.cuda.mem_get_info()[1])
    try:
        for job, result in stacked(jobs, work, 32, limits=Limits(3, 3)).items():
            close_losses(torch.tensor(result.history), torch.tensor(expected[job].history))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
