"""The steps since the last log point, on the device until it is reached."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llama.training_step import StepResult

_STEPS = "window.steps"


class LogWindow:
    """Gathers one training step after another. A checkpoint carries it, so that it may be taken between two log points."""

    def __init__(self, device: torch.device):
        self._device = device
        self._steps: list[Tensor] = []
        """A step's loss, gradient norm and whether its update was skipped, [3]."""

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: StepResult) -> None:
        self._steps.append(torch.stack(step))

    def close(self) -> tuple[float, float]:
        """`means`; the next window starts empty. Waits for the device."""
        means = self.means()
        self._steps.clear()
        return means

    def means(self) -> tuple[float, float]:
        """Mean loss and gradient norm of the updates that were made, NaN where there was none. Waits for the device."""
        steps_W3 = torch.stack(self._steps).cpu()
        made_W3 = steps_W3[steps_W3[:, 2] == 0]
        loss, grad_norm, _ = made_W3.t().contiguous().mean(dim=1).tolist()
        return loss, grad_norm

    def tensors(self) -> dict[str, Tensor]:
        """Its contents by name, for a checkpoint; none where it is empty."""
        return {_STEPS: torch.stack(self._steps).cpu()} if self._steps else {}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the contents over from a checkpoint."""
        self._steps = list(tensors.get(_STEPS, torch.empty(0, 3)).to(self._device))
