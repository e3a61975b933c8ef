"""Seconds spent training: steps count, journal, checkpoints and validation do not."""

from __future__ import annotations

import time

import torch


class StepClock:
    """Runs while steps are made, from one `start` to the next `stop`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0
        """Over all stretches."""
        self._taken_seconds = 0.0
        self._started = time.monotonic()

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self) -> None:
        """Waits for the device: what it still computes counts."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds += time.monotonic() - self._started

    def take(self) -> float:
        """Seconds counted since they were last taken. The clock must be stopped."""
        fresh = self.seconds - self._taken_seconds
        self._taken_seconds = self.seconds
        return fresh
