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
    """One size: its runs' compute, and interpolation between them, linear in the losses so that resamples are one product."""

    def __init__(self, n_params: float, members_n: NDArray[np.intp], log_flops_n: Array, log_d_n: Array) -> None:
        self.log_n = float(np.log(n_params))
        order = members_n[np.argsort(log_flops_n[members_n], kind="stable")]
        new = np.concatenate([[True], np.diff(log_flops_n[order]) > SAME_COMPUTE])
        knot = np.cumsum(new) - 1
        self.members_n, self.knot_n = order, knot
        count = np.bincount(knot)
        self.x_U = np.bincount(knot, weights=log_flops_n[order]) / count
        #: ln of the FLOPs a token, by which D follows from C.
        self.log_per_token = float(np.median(log_flops_n[order] - log_d_n[order]))
        self._weights: dict[bytes, tuple[int, int, Array]] = {}

    def curves(self, log_loss_Kn: Array, weight_Kn: Array, at_G: Array) -> Array:
        """Interpolated log loss of K resamples (K, G); NaN outside the runs that a resample drew."""
        k = max(len(log_loss_Kn), len(weight_Kn))
        one_hot_nU = np.eye(len(self.x_U))[self.knot_n]
        weight = np.broadcast_to(weight_Kn[:, self.members_n], (k, len(self.members_n)))
        total_KU = weight @ one_hot_nU
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_KU = ((weight * log_loss_Kn[:, self.members_n]) @ one_hot_nU) / total_KU
        out = np.full((k, len(at_G)), np.nan)
        patterns, which = np.unique(total_KU > 0, axis=0, return_inverse=True)
        for number, present in enumerate(patterns):
            if present.sum() < 2:
                continue
            rows = np.flatnonzero(which.ravel() == number)
            first, last, weights_GU = self._interpolation(present, at_G)
            out[rows[:, None], np.arange(first, last)] = mean_KU[rows][:, present] @ weights_GU.T
        return out

    def _interpolation(self, present_U: NDArray[np.bool_], at_G: Array) -> tuple[int, int, Array]:
        key = present_U.tobytes()
        if key not in self._weights:
            x_U = self.x_U[present_U]
            # A hair's breadth of slack, so that a budget that is a run's own is covered by it.
            first = int(np.searchsorted(at_G, x_U[0] - 1e-12))
            last = int(np.searchsorted(at_G, x_U[-1] + 1e-12, side="right"))
            self._weights[key] = (first, last, hermite_weights(x_U, at_G[first:last]))
        return self._weights[key]


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


def hermite_weights(x_U: Array, at_G: Array) -> Array:
    """W (G, U) with W @ y the cubic Hermite interpolation of y, slopes by the parabola through three neighbours.

    Exact for parabolas; with two points it is the straight line. `at_G` lies within `x_U`, which ascends.
    """
    knots = len(x_U)
    gaps = np.diff(x_U)
    slopes_UU = np.zeros((knots, knots))
    if knots == 2:
        slopes_UU[:] = np.array([-1.0, 1.0]) / gaps[0]
    else:
        for i in range(knots):
            three = min(max(i - 1, 0), knots - 3) + np.arange(3)
            x, others = x_U[i], x_U[three]
            for j in range(3):
                # The derivative at x of Lagrange's polynomial of the j-th neighbour.
                rest = np.delete(others, j)
                slopes_UU[i, three[j]] = ((x - rest[0]) + (x - rest[1])) / np.prod(others[j] - rest)
    left = np.clip(np.searchsorted(x_U, at_G, side="right") - 1, 0, knots - 2)
    h = gaps[left]
    t = np.clip((at_G - x_U[left]) / h, 0.0, 1.0)
    identity = np.eye(knots)
    return np.asarray(
        (2 * t**3 - 3 * t**2 + 1)[:, None] * identity[left]
        + (3 * t**2 - 2 * t**3)[:, None] * identity[left + 1]
        + ((t**3 - 2 * t**2 + t) * h)[:, None] * slopes_UU[left]
        + ((t**3 - t**2) * h)[:, None] * slopes_UU[left + 1]
    )
