"""Approach 1 (Hoffmann et al. 2022, section 3.1) from final losses: each size's loss over compute, and the envelope over sizes.

Final losses alone are used, one a run: a point on the way through a decaying schedule is not what a run of that length reaches.
A size's curve is interpolated between its own runs in log loss and log C, never beyond them. Where the best of the sizes
trained near a budget is the smallest or the largest of them, a better one may lie outside: that is no optimum, and is left out
of the power laws as an isoFLOP bowl with its least at the edge is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.results import Array

#: Budgets at which the envelope is read off, evenly spaced in log C.
GRID = 240
#: Sizes that the envelope must pass through, its edges left out.
MIN_SIZES = 3
#: Runs of one size nearer in compute than this share are one point of its curve.
SAME_COMPUTE = 1e-6
SLACK = 1e-12


@dataclass(frozen=True, kw_only=True)
class Envelopes:
    """The envelope of K resamples over G budgets; NaN where fewer than two sizes were trained near a budget."""

    log_flops_G: Array
    log_n_KG: Array
    log_d_KG: Array
    log_loss_KG: Array
    edge_KG: NDArray[np.bool_]

    @property
    def interior_KG(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.log_loss_KG) & ~self.edge_KG

    def sizes_K(self) -> NDArray[np.intp]:
        """How many sizes the envelope passes through away from its edges."""
        return np.array(
            [len(np.unique(row[inside])) for row, inside in zip(self.log_n_KG, self.interior_KG, strict=True)],
            dtype=np.intp,
        )


class _Size:
    """One size: its runs' compute, and interpolation between those that a resample drew."""

    def __init__(self, n_params: float, members_n: NDArray[np.intp], log_flops_n: Array, log_d_n: Array) -> None:
        self.log_n = float(np.log(n_params))
        order = members_n[np.argsort(log_flops_n[members_n], kind="stable")]
        new = np.concatenate([[True], np.diff(log_flops_n[order]) > SAME_COMPUTE])
        knot = np.cumsum(new) - 1
        self.members_n = order
        self.one_hot_nU = np.eye(int(knot[-1]) + 1)[knot]
        self.x_U = log_flops_n[order] @ self.one_hot_nU / self.one_hot_nU.sum(axis=0)
        #: ln of the FLOPs a token, by which D follows from C.
        self.log_per_token = float(np.median(log_flops_n[order] - log_d_n[order]))

    def curves(self, log_loss_Kn: Array, weight_Kn: Array, at_G: Array) -> Array:
        """Interpolated log loss of K resamples (K, G); NaN outside the runs that a resample drew."""
        weight = weight_Kn[:, self.members_n]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_KU = ((weight * log_loss_Kn[:, self.members_n]) @ self.one_hot_nU) / (weight @ self.one_hot_nU)
        return interpolate(self.x_U, mean_KU, at_G)


class EnvelopeDesign:
    """Which runs stand where: made once, evaluated for the measured losses and for every resample."""

    def __init__(self, n_params_n: Array, n_tokens_n: Array, flops_n: Array) -> None:
        log_flops, log_d = np.log(flops_n), np.log(n_tokens_n)
        self.sizes = [
            size
            for n_params in np.unique(n_params_n)
            if len((size := _Size(float(n_params), np.flatnonzero(n_params_n == n_params), log_flops, log_d)).x_U) > 1
        ]

    @cached_property
    def log_flops_G(self) -> Array:
        """Budgets between the second-lowest start and the second-highest end of a size's runs: two sizes compete there."""
        starts = np.sort([size.x_U[0] for size in self.sizes])
        ends = np.sort([size.x_U[-1] for size in self.sizes])
        return np.linspace(starts[1], max(starts[1], ends[-2]), GRID)

    def evaluate(self, log_loss_Kn: Array, weight_Kn: Array) -> Envelopes:
        """The envelopes of K resamples; `log_loss_Kn` or `weight_Kn` may have one row for all."""
        at_G = self.log_flops_G
        curves_SKG = np.stack([size.curves(log_loss_Kn, weight_Kn, at_G) for size in self.sizes])
        covered = ~np.isnan(curves_SKG)
        compete = covered.sum(axis=0) >= 2
        best = np.argmin(np.where(covered, curves_SKG, np.inf), axis=0)
        first = np.argmax(covered, axis=0)
        last = len(self.sizes) - 1 - np.argmax(covered[::-1], axis=0)
        log_n = np.array([size.log_n for size in self.sizes])[best]
        log_d = at_G - np.array([size.log_per_token for size in self.sizes])[best]
        loss = np.take_along_axis(curves_SKG, best[None], axis=0)[0]
        return Envelopes(
            log_flops_G=at_G,
            log_n_KG=np.where(compete, log_n, np.nan),
            log_d_KG=np.where(compete, log_d, np.nan),
            log_loss_KG=np.where(compete, loss, np.nan),
            edge_KG=compete & ((best == first) | (best == last)),
        )


def interpolate(x_U: Array, y_KU: Array, at_G: Array) -> Array:
    """Cubic Hermite interpolation of K functions (K, G), slopes by the parabola through three neighbours.

    Knots that are NaN are not there. Exact for parabolas; a straight line between two knots; NaN beyond the outer ones.
    """
    present = ~np.isnan(y_KU)
    last_K1 = present.sum(axis=1)[:, None] - 1
    # Knots that are there come first, in their order.
    order = np.argsort(~present, axis=1, kind="stable")
    x_KU, y_KU = x_U[order], np.take_along_axis(y_KU, order, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.diff(x_KU, axis=1)
        rise = np.diff(y_KU, axis=1) / gap
        slope_KU = np.empty_like(y_KU)
        slope_KU[:, 1:-1] = (gap[:, 1:] * rise[:, :-1] + gap[:, :-1] * rise[:, 1:]) / (gap[:, :-1] + gap[:, 1:])
        bend = np.diff(rise, axis=1) / (gap[:, :-1] + gap[:, 1:])
        slope_KU[:, 0] = rise[:, 0] - (gap[:, 0] * bend[:, 0] if bend.shape[1] else 0.0)
        rows = np.arange(len(y_KU))[:, None]
        before = np.clip(last_K1 - 1, 0, gap.shape[1] - 1)
        end = rise[rows, before]
        if bend.shape[1]:
            end = end + gap[rows, before] * bend[rows, np.clip(last_K1 - 2, 0, bend.shape[1] - 1)]
        slope_KU[rows, last_K1] = end
        two = last_K1[:, 0] == 1
        slope_KU[two, :2] = rise[two, :1]
        # A hair's breadth of slack, so that a budget that is a run's own is covered by it.
        passed_KG = np.pad(np.cumsum(present, axis=1), ((0, 0), (1, 0)))[
            :, np.searchsorted(x_U, at_G + SLACK, side="right")
        ]
        left = np.clip(passed_KG - 1, 0, np.maximum(last_K1 - 1, 0))
        right = np.minimum(left + 1, x_KU.shape[1] - 1)
        x0, h = x_KU[rows, left], x_KU[rows, right] - x_KU[rows, left]
        t = np.clip((at_G - x0) / h, 0.0, 1.0)
        value = (
            (2 * t**3 - 3 * t**2 + 1) * y_KU[rows, left]
            + (3 * t**2 - 2 * t**3) * y_KU[rows, right]
            + h * (t**3 - 2 * t**2 + t) * slope_KU[rows, left]
            + h * (t**3 - t**2) * slope_KU[rows, right]
        )
    beyond = at_G > x_KU[rows, np.maximum(last_K1, 0)] + SLACK
    return np.where((passed_KG > 0) & ~beyond & (last_K1 > 0), value, np.nan)
