"""Time as the supervisor sees it: a monotonic clock, or one that a simulation advances."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since some fixed moment; never goes back."""

    def now(self) -> float: ...


class MonotonicClock:
    """The machine's own."""

    def now(self) -> float:
        return time.monotonic()
