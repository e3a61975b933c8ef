"""The losses and gradient norms since the last log point, on the device until it is reached."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_LOSSES, _GRAD_NORMS = "window.losses", "window.grad_norms"


class Window:
    """Gathers one training step after another. A checkpoint carries it, so that it may be taken between two log points."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._grad_norms: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        self._losses.append(loss)
        self._grad_norms.append(grad_norm)

    def close(self) -> tuple[float, float]:
        """Mean loss and gradient norm, read from the device; the next window starts empty."""
        means = torch.stack([torch.stack(self._losses).mean(), torch.stack(self._grad_norms).mean()]).tolist()
        self._losses.clear()
        self._grad_norms.clear()
        return means[0], means[1]

    def tensors(self) -> dict[str, Tensor]:
        """Its contents by name, for a checkpoint; none where it is empty."""
        if not self._losses:
            return {}
        return {_LOSSES: torch.stack(self._losses).cpu(), _GRAD_NORMS: torch.stack(self._grad_norms).cpu()}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the contents over from a checkpoint."""
        self._losses = list(tensors.get(_LOSSES, torch.empty(0)))
        self._grad_norms = list(tensors.get(_GRAD_NORMS, torch.empty(0)))
