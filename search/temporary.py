"""Temporary folders of a command's own. Those of killed commands are removed by the next one.

A folder is in use as long as a process holds the lock on the file in it. The lock ends with its
process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import tempfile
from pathlib import Path

from utils import InputError

_PREFIX, _LOCK = "lmf-", "in-use.lock"
_SOCKET_PATH = 103  # characters at most: macOS's limit, and Ray's; Linux has 107
_FALLBACKS = ("/tmp", "/var/tmp", "/dev/shm")


class OwnFolder:
    """A temporary folder that lasts until `close`; the next command removes a killed one's.

    Args:
        room: How many characters the paths of sockets in it may add to its own.

    Raises:
        InputError: There is no folder to make it in.
    """

    def __init__(self, room: int) -> None:
        bases = list(dict.fromkeys((tempfile.gettempdir(), *_FALLBACKS)))
        for base in bases:
            _remove_dead(Path(base))
        most = _SOCKET_PATH - room - len(f"/{_PREFIX}12345678")
        for base in bases:
            if len(base) <= most and self._made_in(base):
                return
        raise InputError(
            f"temporary files: expected a writable folder with a path of at most {most} "
            f"characters, found none among {', '.join(bases)}; set TMPDIR to one"
        )

    def _made_in(self, base: str) -> bool:
        try:
            while True:
                self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
                with contextlib.suppress(FileNotFoundError, BlockingIOError):  # being removed
                    self.lock = _locked(self.path, os.O_CREAT)
                    if (self.path / _LOCK).exists():
                        return True
                    os.close(self.lock)
        except OSError:  # not writable, full, or without locks
            return False

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def _locked(folder: Path, flags: int = 0) -> int:
    """Returns the descriptor that holds the folder's lock.

    Raises:
        FileNotFoundError: There is no lock, or no folder.
        BlockingIOError: Another process holds it.
    """
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove_dead(base: Path) -> None:
    """Removes the folders in there whose processes have ended, and what Ray left running."""
    for folder in base.glob(f"{_PREFIX}????????"):
        with contextlib.suppress(OSError):  # in use, somebody else's, or something else
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                continue
            if not any(folder.iterdir()):  # its process ended before it made the lock
                folder.rmdir()
                continue
            lock = _locked(folder)
            _kill_agents(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _kill_agents(folder: Path) -> None:
    """Ends Ray's processes that outlive a killed driver and keep their logs in its folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if not (process / "cmdline").read_bytes().startswith(b"ray::"):
                continue
            files = map(os.path.realpath, (process / "fd").iterdir())
            if any(file.startswith(f"{folder}/") for file in files):
                os.kill(int(process.name), signal.SIGKILL)
