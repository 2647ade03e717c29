"""Searches in processes of their own, which start at once and end by a signal at a given moment.

python tests/drivers.py     (a request per line of its input, an answer per line of its output)

Each driver is forked from this process, which has imported all that a script imports, and takes
its workers from one forkserver. It ignores Ctrl-C's signals at first, as what a script starts with
`&` does. A moment is the n-th call that the driver makes in a phase of its
work, so that it doesn't depend on the machine's speed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("starting", "training", "writing a row", "the model", "ending")
STARTING, TRAINING, ROW, MODEL, ENDING = PHASES
PILOT, BORDER = "storing a pilot", "between pilots and others"  # only with --prune
SECONDS = 120  # more than anything here takes


class Answer(NamedTuple):
    """How a driver ended."""

    status: int  # its exit status; a signal's number, negative, if that ended it
    phase: str  # what it was doing when the signal came; "" if none came
    calls: dict[str, int]  # how many it made in each phase
    output: str
    left: list[int]  # its processes that outlived it by more than SECONDS


class Drivers:
    """The process that drivers are forked from, as a test sees it."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115, until close
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
        )

    def run(
        self, options: dict[str, object], number: int = 0, phase: str = "", call: int = 0
    ) -> Answer:
        """Runs a search on MOSI that sends itself a signal at the n-th call in a phase."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([options, number, phase, call], default=str) + "\n")
        self.process.stdin.flush()
        return Answer(*json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        """Ends the process, and sees that no worker complained and no temporary file is left."""
        self.process.communicate(timeout=SECONDS)
        self.errors.seek(0)
        with self.errors as errors:
            said = [line for line in errors if not line.startswith(b"compiling the fast path")]
            assert not said, said  # where it was compiled before, nothing is said of that
        assert list(self.temporary.rglob("*")) == []


class _Fuse:
    """Counts a driver's calls by phase, and sends it a signal at one of them."""

    def __init__(self, number: int, phase: str, call: int, report: Path) -> None:
        self.number, self.moment, self.report = number, (phase, call), report
        self.calls: Counter[str] = Counter(dict.fromkeys(PHASES, 0))

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_call"):
            return
        phase = _phase(frame)
        if phase == STARTING and self.calls[TRAINING]:
            phase = ENDING
        self.calls[phase] += 1
        if (phase, self.calls[phase]) == self.moment:
            self.write(phase)
            os.kill(os.getpid(), self.number)

    def write(self, phase: str = "") -> None:
        self.report.write_text(json.dumps([phase, self.calls]))


def _phase(frame: FrameType | None) -> str:
    names = set()
    while frame:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    if "add_pilot" in names:
        return PILOT
    if "stops" in names:
        return BORDER
    if "_keep" not in names:
        return TRAINING if "_train" in names else STARTING
    if "write_atomically" in names:
        return MODEL
    return ROW if "add" in names else TRAINING


def _drive(options: dict[str, object], fuse: _Fuse, output: Path) -> None:
    """Is the driver: never returns."""
    from search.options import run_script
    from train_mosi import main

    os.setsid()
    for ignored in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 0
    sys.setprofile(fuse)
    try:
        run_script(lambda: main(options))
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.setprofile(None)
        sys.stdout.flush()
        if not fuse.report.exists():
            fuse.write()
        os._exit(status)


def children(process: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == process:
            yield int(path.parent.name)


def _answer(request: str, folder: Path) -> Answer:
    options, number, phase, call = json.loads(request)
    report, output = folder / "report", folder / "output"
    process = os.fork()
    if not process:
        _drive(options, _Fuse(number, phase, call, report), output)
    _, status = os.waitpid(process, 0)
    workers = forkserver._forkserver._forkserver_pid  # pyright: ignore
    deadline = time.monotonic() + SECONDS
    while (left := list(children(workers))) and time.monotonic() < deadline:
        time.sleep(0.005)
    phase, calls = json.loads(report.read_text()) if report.exists() else ("", {})
    return Answer(os.waitstatus_to_exitcode(status), phase, calls, output.read_text(), left)


def main() -> None:
    """Answers requests until there are no more."""
    import train_mosi  # noqa: F401
    from search.workers import prepare

    prepare()
    forkserver.ensure_running = lambda: None  # drivers are not the parent that could look after it
    forkserver._forkserver.ensure_running = lambda: None  # pyright: ignore
    answers = os.fdopen(os.dup(1), "w")
    for request in sys.stdin:
        with tempfile.TemporaryDirectory(prefix="driver-") as folder:
            print(json.dumps(_answer(request, Path(folder))), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
