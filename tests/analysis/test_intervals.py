"""One rule for every interval: order statistics, in which infinite draws count and NaN ones don't."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from analysis.intervals import Z95, band, ends, interval


def test_the_central_95_percent() -> None:
    found = interval(np.random.default_rng(0).permutation(np.arange(1001.0)))
    assert (found.lo, found.hi) == (25, 975)
    half = interval(np.arange(1001.0), 0.5)
    assert (half.lo, half.hi) == (250, 750)


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 60), st.integers(1, 3)),
        elements=st.floats(-1e3, 1e3) | st.sampled_from([np.inf, np.nan]),
    )
)
def test_each_end_is_the_nearest_of_the_known_draws(draws_KG: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lo_G, hi_G = ends(draws_KG)
    for draws_K, lo, hi in zip(draws_KG.T, lo_G, hi_G, strict=True):
        known = np.sort(draws_K[~np.isnan(draws_K)])
        if not len(known):
            assert np.isnan([lo, hi]).all()
            continue
        place = 0.025 * (len(known) - 1)
        near = [k for k in range(len(known)) if abs(k - place) <= 0.5 + 1e-6]
        assert (lo, hi) in [(known[k], known[-1 - k]) for k in near]


def test_no_draws_give_no_interval() -> None:
    assert np.isnan([interval(np.empty(0)).lo, interval(np.empty(0)).hi]).all()
    bare = band(np.array([1.0, 2.0]), np.array([3.0, 4.0]), None)
    assert np.isnan([bare.lo_G, bare.hi_G]).all()


def test_a_band_holds_the_interval_of_every_point() -> None:
    draws_KG = np.random.default_rng(0).normal(size=(200, 3))
    found = band(np.arange(3.0), np.zeros(3), draws_KG)
    for point in range(3):
        alone = interval(draws_KG[:, point])
        assert (found.lo_G[point], found.hi_G[point]) == (alone.lo, alone.hi)


def test_z95_is_the_normal_distribution_s() -> None:
    assert pytest.approx(norm.ppf(0.975), abs=1e-6) == Z95
