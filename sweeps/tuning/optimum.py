"""The best learning rate and batch of one size and horizon: the lowest point of a curve through its trials, not the best trial.

Two runs that differ in their seed alone differ by about as much as neighbouring rates do, so the trial with the lowest loss is
a lucky one as often as it is the best. A parabola in the logarithm of the rate (and of the batch, where several were tried)
averages over them; trials far above the best count less, since a parabola is right near the minimum only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeps.tuning.trials import Trial

Array = NDArray[np.float64]

#: A trial whose loss is this share above the best one's counts half.
HALF_WEIGHT_EXCESS = 0.03


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Where the curve is lowest, in logarithms of rate and batch, and what it was seen from."""

    log_lr: float
    log_batch: float
    loss: float
    """The curve's, there."""
    edges: tuple[str, ...]
    """What keeps this from being a minimum: it lies at an end of what was tried, or the curve has none."""

    @property
    def peak_lr(self) -> float:
        return float(np.exp(self.log_lr))

    @property
    def batch_tokens(self) -> float:
        return float(np.exp(self.log_batch))

    @property
    def has_rate(self) -> bool:
        """Whether the rate is a minimum, so that a law may be fitted to it."""
        return not any(edge.startswith("peak_lr") for edge in self.edges)

    @property
    def has_batch(self) -> bool:
        return not any(edge.startswith("batch") for edge in self.edges)


class Curve:
    """A least-squares parabola through one cell's finished trials.

    Censored and diverged trials are no points of it. They count for one thing: a rate beyond which trials were no better is no
    edge of what was tried.
    """

    def __init__(self, tried: Sequence[Trial]) -> None:
        """
        Raises:
            ValueError: fewer finished trials than the curve has numbers.
        """
        finished = [trial for trial in tried if trial.loss is not None]
        self.x = np.log([trial.peak_lr for trial in finished])
        self.y = np.log([float(trial.batch_tokens) for trial in finished])
        self.loss = np.array([trial.loss for trial in finished], dtype=float)
        all_x = np.log([trial.peak_lr for trial in tried])
        all_y = np.log([float(trial.batch_tokens) for trial in tried])
        self._x_range = (float(all_x.min()), float(all_x.max()))
        self._y_range = (float(all_y.min()), float(all_y.max()))
        self._n_batches = len(set(self.y.tolist()))
        self._middle = (float(self.x.mean()), float(self.y.mean()))
        self.columns = self._columns(self.x, self.y)
        if len(finished) <= self.columns.shape[1]:
            raise ValueError(
                f"{len(finished)} finished trials are too few for a curve of {self.columns.shape[1]} numbers"
            )
        best = self.loss.min()
        self.weights = 1 / (1 + ((self.loss - best) / (HALF_WEIGHT_EXCESS * best)) ** 2)
        root = np.sqrt(self.weights)
        self._solve = np.linalg.pinv(self.columns * root[:, None]) * root
        self.coefficients = self._solve @ self.loss
        self.fitted = self.columns @ self.coefficients
        leverage = np.clip(np.einsum("np,pn->n", self.columns, self._solve), 0.0, 0.9)
        self.residuals = root * (self.loss - self.fitted) / np.sqrt(1 - leverage)
        """As they would be for trials of full weight whose fit they had no part in: what noise is drawn from."""

    def _columns(self, x: Any, y: Any) -> Array:
        dx, dy = np.atleast_1d(x) - self._middle[0], np.atleast_1d(y) - self._middle[1]
        columns = [np.ones_like(dx), dx, dx**2]
        if self._n_batches > 1:
            columns += [dy]
        if self._n_batches > 2:
            columns += [dx * dy, dy**2]
        return np.stack(columns, axis=1)

    def at(self, log_lr: Any, log_batch: Any) -> Array:
        """The curve's loss."""
        return np.asarray(self._columns(log_lr, log_batch) @ self.coefficients)

    def optimum(self, loss: Array | None = None) -> Optimum:
        """Its lowest point; of the curve through other losses at the same trials, where they are given."""
        c = self.coefficients if loss is None else self._solve @ loss
        edges: list[str] = []
        dy = 0.0
        if self._n_batches > 2 and (determinant := 4 * c[2] * c[5] - c[4] ** 2) > 0 and c[2] > 0:
            dy = float((c[1] * c[4] - 2 * c[2] * c[3]) / determinant)
        elif self._n_batches > 1:
            best_batch = self.y[np.argmin(self.loss)] if self._n_batches > 2 else self._y_range[int(c[3] < 0)]
            dy = float(best_batch - self._middle[1])
            edges.append("batch: the curve has no minimum in it")
        log_batch, edge = _inside(self._middle[1] + dy, self._y_range, "batch")
        edges += edge if self._n_batches > 1 else []
        dy = log_batch - self._middle[1]
        slope = c[1] + (c[4] * dy if self._n_batches > 2 else 0.0)
        if c[2] > 0:
            log_lr, edge = _inside(self._middle[0] - float(slope) / (2 * float(c[2])), self._x_range, "peak_lr")
            edges += edge
        else:
            log_lr = float(self.x[np.argmin(self.loss)])
            edges.append("peak_lr: the curve has no minimum in it")
        lowest = float((self._columns(log_lr, log_batch) @ c)[0])
        return Optimum(log_lr=log_lr, log_batch=log_batch, loss=lowest, edges=tuple(edges))

    def draws(self, residuals: Array, count: int, generator: np.random.Generator) -> list[Optimum]:
        """The optimum, had the noise of the trials fallen otherwise: `residuals` are what it is drawn from."""
        spread = residuals - residuals.mean()
        noise = generator.choice(spread, size=(count, len(self.loss))) / np.sqrt(self.weights)
        return [self.optimum(self.fitted + row) for row in noise]


def _inside(value: float, limits: tuple[float, float], what: str) -> tuple[float, list[str]]:
    """The value, or the limit that it lies beyond, with a word on it."""
    low, high = limits
    if value < low:
        return low, [f"{what}: the lowest that was tried is the best"]
    if value > high:
        return high, [f"{what}: the highest that was tried is the best"]
    return value, []
