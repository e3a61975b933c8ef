"""How a launcher is asked to leave: SIGTERM, or SIGUSR1 as Slurm's `--signal=USR1@60` sends it some time before."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def exit_code(number: signal.Signals) -> int:
    """As a shell tells it of a process that died by the signal."""
    return 128 + number


class Asked:
    """Which signal came, if any."""

    number: signal.Signals | None = None


@contextmanager
def signals_exit() -> Iterator[Asked]:
    """The signals raise `SystemExit`, so that what runs can be ended first. Signals belong to the main thread alone.

    Where Ray was waiting, it raises a `SystemExit` of its own with exit code 1 in the place of ours, so the block's end puts
    ours back.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def leave(number: int, frame: FrameType | None) -> None:
        asked.number = signal.Signals(number)
        sys.exit(exit_code(asked.number))

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield asked
    except SystemExit as left:
        if asked.number is None:
            raise
        raise SystemExit(exit_code(asked.number)) from left
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """The signals wait until the block is over, and then find the handlers that stood before it: as it connects, Ray 2.60 puts
    its own in their place, and the first of those aborts the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
