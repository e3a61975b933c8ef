"""Weights from the noise between seeds: small models scatter more, and a law should lean on them less.

Runs of one design cell that differ in nothing but their seed give a variance of log loss. By size, these variances are fitted
with a power law, var(N) = s^2 N^-2g, by maximum likelihood: a variance of f degrees of freedom is gamma distributed with shape
f/2, so that one of 0 (two seeds that agree) is as good as any. Beyond the sizes that were repeated the noise is that of the
nearest one: noise has a floor, and a power carried past it would trust the largest runs too much (docs/studies/recovery.md).

A run's weight is 1 at the reference size, and elsewhere what makes the objective that of residuals over their noise: the
inverse variance where they are squared, the inverse sd where the objective is |r|, as Huber's is whose threshold is below the
noise. Whichever it is, the noise that intervals redraw is the model's.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.fitting.objective import Objective
from analysis.laws.base import Array
from analysis.results import Interval, NoiseModel
from analysis.words import count
from llama.errors import UserError

#: Sizes with repeated seeds that a power of N needs.
MIN_SIZES = 2
#: Halvings of the bracket of g, to a double's precision.
MAX_STEPS = 60
#: Bounds of g: noise of log loss falls with size more slowly than 1/N, and never grows much faster.
EXPONENT_BOUNDS = (-1.0, 1.0)
#: A size this many times beyond those repeated is told of.
FAR = 4.0


def noise_model(runs: pd.DataFrame, counting: str, source: str) -> NoiseModel:
    """Noise by size from the repeated seeds among `runs` (a RunTable frame).

    Raises:
        UserError: no cell has two seeds, only one size has, or all repeated losses are equal.
    """
    known = runs[runs["design"] != ""]
    log_loss = np.log(known["loss"].to_numpy(dtype=np.float64))
    frame = pd.DataFrame({"cell": known["design"], "n": known[counting].astype(np.float64), "log_loss": log_loss})
    cells = frame.groupby("cell").agg(n=("n", "mean"), variance=("log_loss", "var"), seeds=("log_loss", "size"))
    cells = cells[cells["seeds"] > 1]
    if not len(cells):
        raise UserError(
            f"{source} has no runs that differ in nothing but their seed, so weights='noise' has no noise to go by. Repeat "
            "seeds at two sizes or more (a file states them in the column seed, or names a run's cell in the column design), "
            "or use weights='column'"
        )
    freedom = (cells["seeds"] - 1).to_numpy(dtype=np.float64)
    sums = pd.DataFrame({"n": cells["n"], "freedom": freedom, "sum": cells["variance"] * freedom}).groupby("n").sum()
    sizes = sums.index.to_numpy(dtype=np.float64)
    if len(sizes) < MIN_SIZES:
        raise UserError(
            f"{source} repeats seeds at one size only ({count(sizes[0])} parameters), so how noise goes with size is unknown. "
            "Repeat seeds at a second size, or use weights='column'"
        )
    freedom = sums["freedom"].to_numpy(dtype=np.float64)
    variance = sums["sum"].to_numpy(dtype=np.float64) / freedom
    if not (variance > 0).any():
        raise UserError(
            f"{source} repeats seeds, but the losses of each cell are equal: there is no noise to weigh runs by. Check the "
            "columns design and loss, or use weights='column'"
        )
    middle = float(np.exp(np.log(runs[counting].to_numpy(dtype=np.float64)).mean()))
    reference = float(np.clip(middle, sizes.min(), sizes.max()))
    log_variance, exponent = _power_law(np.log(sizes / reference), variance, freedom)
    return NoiseModel(
        sd=float(np.exp(log_variance / 2)),
        n_params=reference,
        exponent=exponent,
        degrees_of_freedom=int(freedom.sum()),
        sizes=Interval(lo=float(sizes.min()), hi=float(sizes.max())),
    )


def noise_scale_at(model: NoiseModel, n_params_n: Array) -> Array:
    """The sd of each run over that at the reference size."""
    within_n = np.clip(n_params_n, model.sizes.lo, model.sizes.hi)
    return np.asarray((within_n / model.n_params) ** -model.exponent)


def noise_weights(model: NoiseModel, n_params_n: Array, objective: Objective) -> Array:
    """The reference sd over each run's, squared where the objective squares residuals of that size."""
    is_absolute = objective.name == "lad_log" or (objective.name == "huber_log" and objective.delta < model.sd)
    return np.asarray(noise_scale_at(model, n_params_n) ** (-1.0 if is_absolute else -2.0))


def noise_warnings(model: NoiseModel, n_params_n: Array, weight_n: Array) -> list[str]:
    said = []
    beyond = max(float(n_params_n.max()) / model.sizes.hi, model.sizes.lo / float(n_params_n.min()))
    if beyond > FAR:
        said.append(
            f"weights go by noise that was measured from {count(model.sizes.lo)} to {count(model.sizes.hi)} parameters; sizes "
            f"up to {beyond:.2g}x beyond are weighed as the nearest of these"
        )
    if not (weight_n == weight_n[0]).all():
        said.append("the table's column weight is not used: weights were asked to go by the noise between seeds")
    return said


def _power_law(x_S: Array, variance_S: Array, freedom_S: Array) -> tuple[float, float]:
    """Log variance at x = 0 and g of the most likely var = exp(c - 2 g x): a gamma regression with a log link."""

    def level(exponent: float) -> float:
        return float(np.log((freedom_S * variance_S * np.exp(2 * exponent * x_S)).sum() / freedom_S.sum()))

    def slope(exponent: float) -> float:
        # The likelihood's derivative by g at the best level: 0 at the optimum, and monotone.
        share = freedom_S * variance_S * np.exp(2 * exponent * x_S - level(exponent))
        return float(((share - freedom_S) * x_S).sum())

    low, high = EXPONENT_BOUNDS
    for _ in range(MAX_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return level(low), low
