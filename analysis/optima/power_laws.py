"""Straight lines in logs, and losses that level off, batched over resamples: what approaches 1 and 2 read off their points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.results import Array

#: Exponents of compute that a loss curve may have: the grid that is refined, and how often.
LOWEST, HIGHEST, GRID, ROUNDS = 0.01, 2.0, 40, 4
#: Points from which a loss curve of three parameters is drawn.
MIN_LOSS_POINTS = 4


class PowerLaws(NamedTuple):
    """log y = log_coefficient + exponent * log x, for K resamples; NaN where fewer than two points were left."""

    log_coefficient_K: Array
    exponent_K: Array
    squares_K: Array
    """Sum of squared residuals of log y."""

    def at(self, x: float) -> Array:
        """log y at x."""
        return np.asarray(self.log_coefficient_K + self.exponent_K * np.log(x))


def power_laws(log_x_M: Array, log_y_KM: Array) -> PowerLaws:
    """Least squares over the points of each resample that are not NaN."""
    known = ~np.isnan(log_y_KM)
    count = known.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x = np.where(known, log_x_M, 0.0).sum(axis=1) / count
        mean_y = np.where(known, log_y_KM, 0.0).sum(axis=1) / count
        x = np.where(known, log_x_M - mean_x[:, None], 0.0)
        y = np.where(known, log_y_KM - mean_y[:, None], 0.0)
        spread = (x**2).sum(axis=1)
        exponent = np.where(spread > 1e-12, (x * y).sum(axis=1) / spread, np.nan)
        squares = ((y - exponent[:, None] * x) ** 2).sum(axis=1)
        return PowerLaws(mean_y - exponent * mean_x, exponent, squares)


class LossCurves(NamedTuple):
    """L = limit + amplitude * (C / reference)^-exponent, for K resamples; NaN where there were too few points."""

    limit_K: Array
    amplitude_K: Array
    exponent_K: Array
    reference: float

    def at(self, flops: float) -> Array:
        return np.asarray(self.limit_K + self.amplitude_K * (flops / self.reference) ** -self.exponent_K)


def loss_curves(log_flops_M: Array, loss_KM: Array) -> LossCurves:
    """Least squares of relative residuals, limit and amplitude not negative: both are projected out, the exponent searched."""
    centre = float(log_flops_M.mean())
    x_M = log_flops_M - centre
    known = ~np.isnan(loss_KM)
    loss = np.where(known, loss_KM, 1.0)
    weight = np.where(known, 1 / loss**2, 0.0)
    best = np.full((4, len(loss)), np.nan)
    best[0] = np.inf

    def try_exponents(exponent_K: Array) -> None:
        term = np.exp(-exponent_K[:, None] * x_M)
        s0, s1, s2 = weight.sum(axis=1), (weight * term).sum(axis=1), (weight * term**2).sum(axis=1)
        t0, t1 = (weight * loss).sum(axis=1), (weight * loss * term).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            determinant = s0 * s2 - s1**2
            limit, amplitude = (t0 * s2 - t1 * s1) / determinant, (s0 * t1 - s1 * t0) / determinant
            limit, amplitude = (
                np.where(amplitude < 0, t0 / s0, np.where(limit < 0, 0.0, limit)),
                np.where(amplitude < 0, 0.0, np.where(limit < 0, t1 / s2, amplitude)),
            )
            cost = (weight * (loss - limit[:, None] - amplitude[:, None] * term) ** 2).sum(axis=1)
        better = cost < best[0]
        best[:, better] = np.stack([cost, limit, amplitude, exponent_K])[:, better]

    grid = np.geomspace(LOWEST, HIGHEST, GRID)
    for exponent in grid:
        try_exponents(np.full(len(loss), exponent))
    step = float(np.log(grid[1] / grid[0]))
    for _ in range(ROUNDS):
        middle = best[3].copy()
        for part in (-0.75, -0.5, -0.25, 0.25, 0.5, 0.75):
            try_exponents(np.clip(middle * np.exp(part * step), LOWEST, HIGHEST))
        step /= 4
    few = known.sum(axis=1) < MIN_LOSS_POINTS
    best[:, few | ~np.isfinite(best[0])] = np.nan
    return LossCurves(best[1], best[2], best[3], float(np.exp(centre)))
