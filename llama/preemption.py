"""Notice that this process must leave soon: SIGTERM, as batch systems, spot machines and `kill` send it, or SIGUSR1, which
Slurm's `--signal=USR1@60` sends some time before.

A signal reaches the process that trains wherever a batch system signals every process of its job. It does not reach a Ray
worker in a pod: Kubernetes signals only the pod's first process, and Ray drains the node without a word to running tasks.
Such a run is killed, and loses at most the seconds since its last checkpoint.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Notice:
    """Whether the process was asked to leave, and how."""

    signal_name: str | None = None

    def __bool__(self) -> bool:
        return self.signal_name is not None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name


@contextmanager
def preemption_notice() -> Iterator[Notice]:
    """Collect the signals while the block runs, in place of what they did before; afterwards they do that again.

    Python handles signals in its main thread alone. In any other thread nothing is installed and no notice comes: workers,
    ours and Ray's, run their tasks in the main one.
    """
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = {number: signal.signal(number, notice._receive) for number in SIGNALS}
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
