"""Loss spikes: updates that stand out of the recent ones are skipped, decided on the device and read by nobody.

The rule is OLMo-core's step skipping: an update whose loss or gradient norm is more than sigma standard deviations above the
mean of the last 128 steps, or is not finite, changes nothing. Every finite value enters the statistics, skipped or not, so a
level that has risen for good is believed after 128 / (1 + sigma^2) steps (4 at 6 sigma) rather than never: with a share p of
steps at the new level, it lies sqrt((1 - p) / p) deviations above the mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

RECENT_STEPS = 128
LEAST_STEPS = RECENT_STEPS // 2
"""Finite values that a mean and deviation need; before, only what is not finite is skipped."""

_RECENT, _TOTAL, _IN_A_ROW = "spikes.recent", "spikes.total", "spikes.in_a_row"


class SpikeFilter:
    """Judges one update after another. A checkpoint carries it, so that a resumed run judges alike."""

    def __init__(self, sigma: float, device: torch.device):
        self._sigma = sigma
        self._recent_2W = torch.full((2, RECENT_STEPS), torch.nan, device=device)
        """Losses and gradient norms, oldest first; NaN for none yet and for what was not finite."""
        self._total = torch.zeros((), dtype=torch.int64, device=device)
        self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)

    def judge(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """1.0 where the update is to be skipped, else 0.0, as a float32 scalar on the device: what fused AdamW takes as
        `found_inf`. Waits for nothing.
        """
        values_2 = torch.stack([loss, grad_norm])
        is_finite_2 = values_2.isfinite()
        # float64: squares of large float32 would overflow, and equal values have a deviation of exactly 0.
        recent_2W = self._recent_2W.double()
        is_known_2W = recent_2W.isfinite()
        known_2 = is_known_2W.sum(dim=1)
        mean_2 = torch.where(is_known_2W, recent_2W, 0.0).sum(dim=1) / known_2
        variance_2 = torch.where(is_known_2W, recent_2W - mean_2[:, None], 0.0).square().sum(dim=1) / known_2
        is_spike_2 = (known_2 >= LEAST_STEPS) & (values_2 > mean_2 + self._sigma * variance_2.sqrt())
        skipped = (is_spike_2 | ~is_finite_2).any()
        newest_2 = torch.where(is_finite_2, values_2, torch.nan)
        self._recent_2W = torch.cat([self._recent_2W[:, 1:], newest_2[:, None]], dim=1)
        self._total += skipped
        self._in_a_row = (self._in_a_row + 1) * skipped
        return skipped.float()

    def counts(self) -> tuple[int, int]:
        """Updates skipped since the run's first step, and one after another up to the last. Waits for the device."""
        total, in_a_row = torch.stack([self._total, self._in_a_row]).tolist()
        return total, in_a_row

    def tensors(self) -> dict[str, Tensor]:
        """Its contents by name, for a checkpoint."""
        return {_RECENT: self._recent_2W.cpu(), _TOTAL: self._total.cpu(), _IN_A_ROW: self._in_a_row.cpu()}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the contents over from a checkpoint."""
        device = self._recent_2W.device
        self._recent_2W = tensors[_RECENT].to(device)
        self._total, self._in_a_row = tensors[_TOTAL].to(device), tensors[_IN_A_ROW].to(device)
