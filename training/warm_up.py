"""Compiles the fast path for a CPU before it is needed, once per machine.

numba keeps what it has compiled in __pycache__ beside the source, or in the user's cache folder
where that can't be written to.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from pathlib import Path

import torch
from filelock import FileLock

from training import text_cpu
from training.compiler import check_numba
from training.result import Data, Limits, Task
from training.setting import Setting
from training.stacked import fit_stacked
from utils import Split

SILENT_SECONDS = 5.0  # loading what was compiled before takes less, on an idle machine


@functools.cache
def compile_fast_path() -> None:
    """Compiles, or loads, all that training on a CPU needs; says so if that takes long.

    A process does so once. Processes that do so at the same time wait for the first one, and load
    what it compiled.
    """
    check_numba()
    words = "compiling the fast path for this machine: once, about 20 seconds"
    notice = threading.Timer(SILENT_SECONDS, _say, [words])
    notice.start()
    try:
        with _lock():
            _train()
    finally:
        notice.cancel()
        notice.join()


def _lock() -> contextlib.AbstractContextManager[object]:
    folder = text_cpu.compiled_in()
    if folder is None or not Path(folder).is_dir():
        return contextlib.nullcontext()
    return FileLock(Path(folder) / "compilation.lock")


def _say(words: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody listens
        print(words, file=sys.stderr, flush=True)


def _train() -> None:
    """Trains a tiny setting, which calls everything."""
    split = Split(torch.ones(2, 1), torch.ones(2, 1), torch.ones(2, 2, 1), torch.ones(2, 1))
    task = Task(1, lambda output, label: (output - label).sum(-1), 1, lambda scored: {})
    setting = Setting(1, 1, 2, 0.0, 0.0, 0.0, 0.001, 0.001, 1, 2, 0.0)
    list(fit_stacked([(setting, 0)], Data(split, split, split), task, Limits(1, 1)))
