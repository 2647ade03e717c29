"""How a script ends by a signal: at the first one in good order, at the second at once.

Imports nothing that takes long, so that a script can begin with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def end_at_once() -> None:
    """Has these signals end a script without a word, while it has nothing to put in order yet."""
    for number in ENDING:
        if not _is_nohup(number):
            signal.signal(number, lambda number, _: os._exit(128 + number))


def _is_nohup(number: int) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def end_by(number: int) -> NoReturn:
    """Ends the program as that signal does: by KeyboardInterrupt or by SystemExit."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _end_now(number: int, _: FrameType | None) -> None:
    end_by(number)


@contextlib.contextmanager
def ending_at_signals(ask: Callable[[int], object] | None = None) -> Iterator[None]:
    """Has signals that ask for an end raise an exception, also if they were ignored before.

    A script in the background of another one (`&`) is started with Ctrl-C's signal ignored. SIGHUP
    stays ignored: that is what `nohup` is for. Only Python's main thread can do this; in any other
    one nothing changes.

    Args:
        ask: Called by the first signal in place of the exception, which the second one raises.
    """

    def ask_first(number: int, _: FrameType | None) -> None:
        for ending in before:
            signal.signal(ending, _end_now)
        assert ask
        ask(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            handler = signal.getsignal(number)
            if handler is not None and not _is_nohup(number):
                before[number] = handler
    try:
        for number in before:
            signal.signal(number, ask_first if ask else _end_now)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def holding_signals_back(*numbers: signal.Signals) -> Iterator[None]:
    """Has signals wait, all by default; processes started meanwhile never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers or ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
