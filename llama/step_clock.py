"""Seconds spent training: steps count, journal, checkpoints and validation do not."""

from __future__ import annotations

import time


class StepClock:
    """Runs while steps are made. Stop it after waiting for the device, or what it still computes goes uncounted."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Over all stretches."""
        self._taken_seconds = 0.0
        self._started = time.monotonic()

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self) -> None:
        self.seconds += time.monotonic() - self._started

    def take(self) -> float:
        """Seconds counted since they were last taken. The clock must be stopped."""
        fresh = self.seconds - self._taken_seconds
        self._taken_seconds = self.seconds
        return fresh
