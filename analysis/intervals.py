"""What draws say as an interval: the one rule by which every interval and band of the analysis is read off its resamples.

Order statistics rather than interpolation between them: some draws are infinite (a loss that the resampled law never
reaches), and between infinities there is nothing to interpolate. Infinite draws count, NaN ones don't.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.results.basic import Array, Band, Interval

#: How many standard deviations of a normal distribution hold its central 95 % on either side.
Z95 = 1.959964


def ends(draws_K: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Lower and upper end of the central interval along the first axis; NaN where no draw is a number."""
    if not len(draws_K):
        nothing = np.full(draws_K.shape[1:], np.nan)
        return nothing, nothing
    # A sort puts NaN last, behind the draws that count.
    ordered_K = np.sort(draws_K, axis=0)
    last = np.maximum(np.sum(~np.isnan(draws_K), axis=0) - 1, 0)
    # The nearest draw, as many off one end as off the other; halfway between two, the outer one.
    off = np.ceil(last * ((1 - level) / 2) - 0.5 - 1e-9).astype(np.intp)

    def at(index: NDArray[np.intp]) -> Array:
        return np.asarray(np.take_along_axis(ordered_K, index[None], axis=0)[0])

    return at(off), at(last - off)


def interval(draws_K: Array, level: float = 0.95) -> Interval:
    """The central percentile interval of draws of one number."""
    lo, hi = ends(draws_K, level)
    return Interval(lo=float(lo), hi=float(hi))


def band(x_G: Array, mid_G: Array, draws_KG: Array | None, level: float = 0.95) -> Band:
    """A curve with the interval of its draws at each point; NaN ends where there are no draws."""
    if draws_KG is None:
        nothing = np.full(len(x_G), np.nan)
        return Band(x_G=x_G, mid_G=mid_G, lo_G=nothing, hi_G=nothing)
    lo_G, hi_G = ends(draws_KG, level)
    return Band(x_G=x_G, mid_G=mid_G, lo_G=lo_G, hi_G=hi_G)
