"""What a fit minimises: the SUM over runs of a loss of residuals, each by name."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws.base import Array
from llama.errors import UserError

#: r = log L_hat - log L for the *_log ones, L_hat - L for lsq.
OBJECTIVES = ("huber_log", "lad_log", "lsq_log", "lsq")
#: |r| is minimised as Huber with this threshold: at most n/2 times it above the exact least absolute deviation.
LAD_DELTA = 1e-7
#: Huber's threshold goes down through these before the wanted one: nearly quadratic first, so that far starts move.
CONTINUATION = (3e-2, 1e-2, 3e-3)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """huber_log: r^2/2 inside delta, delta (|r| - delta/2) outside. lad_log: |r|. lsq_log and lsq: r^2. Times the weight."""

    name: str = "huber_log"
    delta: float = 1e-3

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise UserError(f"no objective is called {self.name!r}; there are {', '.join(OBJECTIVES)}")
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise UserError(
                f"delta is {self.delta}; Huber's threshold on the log residual must be above 0 (1e-3 is usual)"
            )

    @property
    def is_log(self) -> bool:
        return self.name != "lsq"

    @property
    def stages(self) -> tuple[float, ...]:
        """Huber thresholds that the solver goes through; infinite means least squares."""
        if self.name in ("lsq", "lsq_log"):
            return (np.inf,)
        if self.name == "huber_log":
            return (*(delta for delta in CONTINUATION if delta > 1.5 * self.delta), self.delta)
        return (*CONTINUATION, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, LAD_DELTA)

    def value(self, residual: Array, weight: Array) -> Array:
        """The sum over the last axis."""
        size = np.abs(residual)
        if self.name == "lad_log":
            each = size
        elif self.name == "huber_log":
            inside = np.minimum(size, self.delta)
            each = inside * (size - inside / 2)
        else:
            each = size**2
        return np.asarray((weight * each).sum(axis=-1))
