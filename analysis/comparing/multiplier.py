"""The closed forms of a comparison: loss at the compute optimum over compute, and what one such curve is worth of another.

Where the loss is E + (A N^-alpha + B D^-beta)^k and a token costs slope * N^p, both terms fall alike along the optimum, so that
L*(C) = E + G C^-gamma with gamma = k alpha beta / (alpha + p beta) exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws import get_law
from analysis.results import Array, TokenCost


@dataclass(frozen=True, kw_only=True)
class OptimalLoss:
    """Loss at the compute optimum, for K parameter vectors: limit + exp(log_amplitude) (C / reference)^-exponent."""

    limit_K: Array
    log_amplitude_K: Array
    exponent_K: Array
    reference: float

    def at(self, log_flops: Array) -> Array:
        """Loss; `log_flops` broadcasts against K."""
        return np.asarray(self.limit_K + self.above(log_flops))

    def above(self, log_flops: Array) -> Array:
        """Loss above the limit."""
        return np.asarray(np.exp(self.log_amplitude_K - self.exponent_K * (log_flops - np.log(self.reference))))

    def log_flops(self, loss: Array) -> Array:
        """ln of the compute at which `loss` is reached; infinite where it never is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.maximum(loss - self.limit_K, 0.0)
            return np.asarray(np.log(self.reference) + (self.log_amplitude_K - np.log(room)) / self.exponent_K)


@np.errstate(all="ignore")
def optimal_loss(law_name: str, params_KP: Array, train_flops: TokenCost, reference: float) -> OptimalLoss:
    """The closed form, read off the law at two budgets; a leading axis K is kept as (K, 1) to broadcast against a grid.

    A draw that ended on a bound has no optimum: NaN, here and in all that follows from it.
    """
    law = get_law(law_name)
    limit = np.asarray(law.limit(params_KP))
    above = []
    for budget in (reference, reference * np.e):
        n_opt, d_opt = law.compute_optimum(params_KP, budget, train_flops.slope, train_flops.exponent)
        above.append(np.log(law.predict(params_KP, n_opt, d_opt) - limit))
    return OptimalLoss(
        limit_K=limit[..., None],
        log_amplitude_K=above[0][..., None],
        exponent_K=(above[0] - above[1])[..., None],
        reference=reference,
    )


def log_multiplier(a: OptimalLoss, b: OptimalLoss, log_flops: Array) -> Array:
    """ln m(C): infinite where A never reaches B's loss."""
    return a.log_flops(b.at(log_flops)) - log_flops


@np.errstate(all="ignore")
def tied_multiplier(a: OptimalLoss, b: OptimalLoss, log_flops_G: Array) -> tuple[Array, Array]:
    """(ln m, residuals of log loss) of the one m for which L*_A(m C) is nearest to L*_B(C), by least squares of log loss.

    Gauss-Newton in ln m, steps held to 2: log L*_A is monotone and convex in ln C, and there is one unknown.
    """
    target = np.log(b.at(log_flops_G))
    at_each = log_multiplier(a, b, log_flops_G)
    known = np.isfinite(at_each)
    log_m = np.where(known, at_each, 0.0).sum(axis=-1, keepdims=True) / np.maximum(known.sum(axis=-1, keepdims=True), 1)
    for _ in range(60):
        above = a.above(log_flops_G + log_m)
        loss = a.limit_K + above
        slope = a.exponent_K * above / loss
        residual = target - np.log(loss)
        step = -(slope * residual).sum(axis=-1, keepdims=True) / (slope**2).sum(axis=-1, keepdims=True)
        log_m = log_m + np.clip(step, -2.0, 2.0)
        if np.nanmax(np.abs(step), initial=0.0) < 1e-12:
            break
    return log_m, target - np.log(a.at(log_flops_G + log_m))


def growth(a: OptimalLoss, b: OptimalLoss, span: Array) -> Array:
    """d ln m / d ln C between the two ends `span`, in ln C."""
    ends = log_multiplier(a, b, span)
    with np.errstate(invalid="ignore"):
        return np.asarray((ends[..., 1] - ends[..., 0]) / (span[1] - span[0]))
