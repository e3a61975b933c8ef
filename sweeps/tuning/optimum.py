"""The best learning rate and batch of one size and horizon: the lowest point of a curve through its trials, not the best trial.

Two runs that differ in their seed alone differ by about as much as neighbouring rates do, so the trial with the lowest loss is
a lucky one as often as it is the best. A parabola in the logarithm of the rate (and of the batch, where several were tried)
averages over them; trials far above the best count less, since a parabola is right near the minimum only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sweeps.tuning.trials import Trial

Array = NDArray[np.float64]

#: A trial whose loss is this share above the best one's counts half.
HALF_WEIGHT_EXCESS = 0.03


class Edge(NamedTuple):
    """Why a coordinate of an optimum is no minimum."""

    quantity: Literal["peak_lr", "batch"]
    side: Literal["lowest", "highest"]
    """The end of the finished trials that is best by the curve."""
    tried_beyond: bool
    """Whether trials lie beyond that end, none of which finished."""
    curved: bool
    """Whether the curve has a minimum at all, beyond that end."""

    def __str__(self) -> str:
        finished = (
            "that finished (what lies beyond was censored or diverged)" if self.tried_beyond else "that was tried"
        )
        curve = "" if self.curved else "; the curve has no minimum"
        return f"{self.quantity}: the {self.side} {finished} is the best{curve}"


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Where the curve is lowest among what finished, in logarithms of rate and batch, and what it was seen from."""

    log_lr: float
    log_batch: float
    loss: float
    """The curve's, there."""
    edges: tuple[Edge, ...]
    """What keeps this from being a minimum: it lies at an end of what finished."""

    @property
    def peak_lr(self) -> float:
        return float(np.exp(self.log_lr))

    @property
    def batch_tokens(self) -> float:
        return float(np.exp(self.log_batch))

    @property
    def has_rate(self) -> bool:
        """Whether the rate is a minimum, so that a law may be fitted to it."""
        return not any(edge.quantity == "peak_lr" for edge in self.edges)

    @property
    def has_batch(self) -> bool:
        return not any(edge.quantity == "batch" for edge in self.edges)


class Curve:
    """A least-squares parabola through one cell's finished trials.

    Censored and diverged trials are no points of it, and the curve is not trusted beyond the finished ones: nothing that was
    seen bends it back up there.
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
        self._all_x = np.log([trial.peak_lr for trial in tried])
        self._all_y = np.log([float(trial.batch_tokens) for trial in tried])
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
        """Its lowest point among what finished; of the curve through other losses at the same trials, where they are given."""
        c = self.coefficients if loss is None else self._solve @ loss
        c0, cx, cxx, cy, cxy, cyy = (float(c[k]) if k < len(c) else 0.0 for k in range(6))
        (x_low, x_high), (y_low, y_high) = _span(self.x - self._middle[0]), _span(self.y - self._middle[1])
        points = [(_lowest(cx + cxy * dy, cxx, x_low, x_high), dy) for dy in (y_low, y_high)]
        points += [(dx, _lowest(cy + cxy * dx, cyy, y_low, y_high)) for dx in (x_low, x_high)]
        if cxx > 0 and (determinant := 4 * cxx * cyy - cxy**2) > 0:
            dx, dy = (cy * cxy - 2 * cyy * cx) / determinant, (cx * cxy - 2 * cxx * cy) / determinant
            points += [(dx, dy)] if x_low < dx < x_high and y_low < dy < y_high else []
        lowest, dx, dy = min((c0 + cx * u + cxx * u**2 + cy * v + cxy * u * v + cyy * v**2, u, v) for u, v in points)
        edges = _edges("peak_lr", dx, self.x - self._middle[0], self._all_x - self._middle[0], curved=cxx > 0)
        if self._n_batches > 1:
            edges += _edges("batch", dy, self.y - self._middle[1], self._all_y - self._middle[1], curved=cyy > 0)
        return Optimum(log_lr=self._middle[0] + dx, log_batch=self._middle[1] + dy, loss=lowest, edges=tuple(edges))

    def draws(self, residuals: Array, count: int, generator: np.random.Generator) -> list[Optimum]:
        """The optimum, had the noise of the trials fallen otherwise: `residuals` are what it is drawn from."""
        spread = residuals - residuals.mean()
        noise = generator.choice(spread, size=(count, len(self.loss))) / np.sqrt(self.weights)
        return [self.optimum(self.fitted + row) for row in noise]


def _span(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _lowest(slope: float, curvature: float, low: float, high: float) -> float:
    """Where slope u + curvature u^2 is lowest between two ends."""
    if curvature > 0:
        return min(max(-slope / (2 * curvature), low), high)
    return min(low, high, key=lambda u: slope * u + curvature * u**2)


def _edges(
    quantity: Literal["peak_lr", "batch"], value: float, finished: Array, tried: Array, *, curved: bool
) -> list[Edge]:
    low, high = _span(finished)
    if low < value < high:
        return []
    side: Literal["lowest", "highest"] = "highest" if value >= high else "lowest"
    beyond = bool(tried.max() > high) if side == "highest" else bool(tried.min() < low)
    return [Edge(quantity, side, beyond, curved)]
