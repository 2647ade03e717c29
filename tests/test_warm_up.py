"""What is compiled: once, right on any processor, with one thread, and with no place for it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from numba.core import config

from training import compiler


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code, with a new folder for what it compiles."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.slow
def test_the_fast_path_is_compiled_once_and_says_so_and_is_right_on_any_processor(
    tmp_path: Path,
) -> None:
    code = """
import sys
sys.path.insert(0, "tests")
import conftest
from training import text_cpu, warm_up
warm_up.SILENT_SECONDS = 0.3 if len(sys.argv) > 1 else 60
warm_up.compile_fast_path()
print(sum(text_cpu._forward_all.stats.cache_hits.values()))
from test_stacked import PLAIN, check_equals_fit, drawn, make_work, stacked
work = make_work()
check_equals_fit(stacked(drawn(2, PLAIN), work, 2), work)
"""
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    first = run(code.replace("len(sys.argv) > 1", "True"), tmp_path, **generic)
    assert first.stdout == "0\n"
    assert first.stderr.startswith("compiling the fast path for this machine: once")
    again = run(code, tmp_path, **generic)
    assert (again.stdout, again.stderr) == ("1\n", "")


def plus_one(x: int) -> int:
    return x + 1


def test_a_folder_that_cannot_be_written_to_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_place(_: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(compiler, "Cache", without_place)
    assert compiler.compiled(plus_one)(2) == 3


def test_after_a_change_of_any_compiled_file_all_is_compiled_anew(tmp_path: Path) -> None:
    (tmp_path / "utils.py").write_text("InputError = ValueError")
    package = shutil.copytree(ROOT / "training", tmp_path / "training")
    (package / "helper.py").write_text("""
from training.compiler import njit
@njit
def constant(x): return x + 1
""")
    (package / "caller.py").write_text("""
from training.compiler import compiled
from training.helper import constant
@compiled
def call(x): return constant(x)
""")
    code = f"import sys; sys.path[0] = {str(tmp_path)!r}; from training.caller import call; "
    code += "print(call(2), sum(call.stats.cache_hits.values()))"
    assert [run(code, tmp_path / "cache").stdout for _ in range(2)] == ["3 0\n", "3 1\n"]
    helper = (package / "helper.py").read_text()
    (package / "helper.py").write_text(helper.replace("x + 1", "x + 2"))
    assert run(code, tmp_path / "cache").stdout == "4 0\n"


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("kept", [0, 1, 30, -1])
def test_what_was_compiled_and_is_damaged_is_compiled_anew(
    ending: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert compiler.compiled(plus_one)(2) == 3
    (path,) = tmp_path.rglob(f"*.{ending}")
    path.write_bytes(path.read_bytes()[:kept])
    for hits in (0, 1):
        function: Any = compiler.compiled(plus_one)
        assert function(2) == 3
        assert sum(function.stats.cache_hits.values()) == hits


def test_a_disk_that_is_too_full_for_what_was_compiled_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "replace", full)  # by which numba puts a file into its place
    assert compiler.compiled(plus_one)(2) == 3
    assert not list(tmp_path.rglob("*.nb*"))


def test_without_numba_the_way_of_a_gpu_works_and_a_cpus_says_what_is_missing(
    tmp_path: Path,
) -> None:
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find(name, *rest)
sys.modules["numba"] = None  # can't be imported
sys.path.insert(0, "tests")
import conftest
from test_stacked import PLAIN, check_equals_fit, drawn, make_work, stacked
from search.workers import prepare
work = make_work()
check_equals_fit(stacked(drawn(2, PLAIN), work, 2, on_gpu=True), work)
prepare(compiled=False)
try:
    prepare()
except ValueError as error:
    print(error)
"""
    assert "needs numba, which is not installed: install" in run(code, tmp_path).stdout


def test_where_torchs_blas_cannot_be_called_scipys_takes_its_place(tmp_path: Path) -> None:
    code = """
import ctypes
import numba, torch
load, torchs = ctypes.CDLL, torch._C.__file__
ctypes.CDLL = lambda name, *rest: object() if name == torchs else load(name, *rest)
import numpy as np
from numba.extending import get_cython_function_address
from training.products_cpu import _address, multiply
x, w, out = np.ones((3, 4), np.float32), np.eye(4, dtype=np.float32), np.zeros((3, 4), np.float32)
multiply(x, 2 * w, out, 2)
print(out.tolist(), _address == get_cython_function_address("scipy.linalg.cython_blas", "sgemm"))
"""
    twos, zeros = [2.0] * 4, [0.0] * 4
    assert run(code, tmp_path).stdout == f"{[twos, twos, zeros]} True\n"


def test_products_take_one_thread_whatever_the_environment_says(tmp_path: Path) -> None:
    code = """
from search.jobs import set_torch_up
import training.stacked
set_torch_up()
import torch, threadpoolctl
print({pool["num_threads"] for pool in threadpoolctl.threadpool_info()} | {torch.get_num_threads()})
"""
    many = {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    assert run(code, tmp_path, **many).stdout == "{1}\n"
