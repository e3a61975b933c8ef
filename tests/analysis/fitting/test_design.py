"""Designs that can't identify a law are refused with what to vary; sound ones never are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analysis.fitting.design import check_condition, check_design, design_condition
from analysis.fitting.fit import fit
from analysis.laws import get_law
from analysis.results import Array
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict

CHINCHILLA = get_law("chinchilla")
NOISE = 0.02


def grid(first: float, sizes: int, size_span: float, ratios: int, ratio_span: float) -> tuple[Array, Array]:
    n = np.repeat(first * np.geomspace(1, size_span, sizes), ratios)
    return n, n * np.tile(np.geomspace(5, 5 * ratio_span, ratios), sizes)


def losses(n_params: Array, n_tokens: Array, noise: float, seed: int) -> Array:
    log_noise = noise * np.random.default_rng(seed).standard_normal(len(n_params))
    return predict(BESIROGLU, n_params, n_tokens) * np.exp(log_noise)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    first=st.floats(5, 9.5),
    sizes=st.integers(4, 9),
    size_span=st.floats(8, 1000),
    ratios=st.integers(3, 8),
    ratio_span=st.floats(8, 300),
    jitter=st.floats(0, 0.1),
    noise=st.floats(0, NOISE),
    law=st.sampled_from(["chinchilla", "chinchilla", "overtraining", "kaplan", "skaling"]),
)
def test_a_good_design_is_fitted(
    law: str,
    seed: int,
    first: float,
    sizes: int,
    size_span: float,
    ratios: int,
    ratio_span: float,
    jitter: float,
    noise: float,
) -> None:
    """Four sizes or more over a factor of 8, three ratios or more a size over a factor of 8, at most 2 % of noise."""
    n, d = grid(10**first, sizes, size_span, ratios, ratio_span)
    d = d * np.exp(jitter * np.random.default_rng(seed).uniform(-1, 1, len(d)))
    found = fit(make_table(n, d, losses(n, d, noise, seed)), law=law, bootstrap=0)
    assert np.isfinite(list(found.params.values())).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    runs=st.integers(8, 60),
    power=st.floats(0.3, 1.5),
    jitter=st.floats(0, 0.15),
    noise=st.floats(0, NOISE),
)
def test_tokens_that_go_as_a_power_of_size_are_refused(
    seed: int, runs: int, power: float, jitter: float, noise: float
) -> None:
    """One ratio is the power 1; jitter of 5 % to 15 % does not help."""
    rng = np.random.default_rng(seed)
    n = np.exp(rng.uniform(np.log(1e7), np.log(1e10), runs))
    assume(np.ptp(np.log(n)) > np.log(4))
    d = 20 * 1e8 ** (1 - power) * n**power * np.exp(jitter * rng.standard_normal(runs).clip(-2, 2))
    with pytest.raises(UserError, match="several ratios D/N"):
        fit(make_table(n, d, losses(n, d, noise, seed)), bootstrap=0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.integers(3, 8),
    span=st.floats(1.02, 1.2),
    ratios=st.integers(3, 8),
    noise=st.floats(0, NOISE),
)
def test_sizes_within_a_fifth_of_each_other_are_refused(
    seed: int, sizes: int, span: float, ratios: int, noise: float
) -> None:
    n, d = grid(1e8, sizes, span, ratios, 30)
    with pytest.raises(UserError, match="Spread the sizes"):
        fit(make_table(n, d, losses(n, d, noise, seed)), bootstrap=0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), span=st.floats(2, 1000), ratios=st.integers(4, 30))
def test_two_sizes_are_refused(seed: int, span: float, ratios: int) -> None:
    n, d = grid(1e8, 2, span, ratios, 100)
    with pytest.raises(UserError, match=r"of 2 model sizes.*Add runs of other sizes"):
        fit(make_table(n, d, losses(n, d, 0.005, seed)), bootstrap=0)


def test_the_verdict_does_not_hang_on_noise() -> None:
    """Four sizes within a factor of 2.5 are refused whatever the losses; at the optimum the number would vary 1,000-fold."""
    n, d = grid(1e8, 4, 2.5, 5, 30)
    check_design(n, d, losses(n, d, 0.01, 0), CHINCHILLA)
    for seed in range(10):
        with pytest.raises(UserError, match="spread the sizes over a factor of 8 or more"):
            fit(make_table(n, d, losses(n, d, 0.01, seed)), bootstrap=0)


def test_the_condition_number_is_one_of_the_design() -> None:
    """Neither the units of N and D nor the order of the runs moves it, and a wider design lowers it."""
    n, d = grid(1e8, 4, 8, 4, 8)
    number = check_condition(CHINCHILLA, n, d, None)
    assert check_condition(CHINCHILLA, n[::-1] / 1e6, d[::-1] / 1e9, None) == pytest.approx(number, rel=1e-6)
    assert design_condition(CHINCHILLA, *grid(1e8, 4, 64, 4, 64)) < number / 2
    assert design_condition(CHINCHILLA, *grid(1e8, 4, 1.2, 4, 64)) > 10 * CHINCHILLA.max_condition


@pytest.mark.parametrize("law", ["chinchilla", "overtraining", "kaplan", "skaling"])
def test_designs_that_no_law_can_use(law: str) -> None:
    """One ratio with 5 % jitter, sizes within a fifth of each other, two sizes: whatever the law."""
    sizes = np.geomspace(1e8, 1e10, 40)
    jitter = np.exp(0.05 * np.random.default_rng(0).standard_normal(40))
    for n, d in ((sizes, 20 * sizes * jitter), grid(1e8, 4, 1.2, 8, 30), grid(1e8, 2, 10, 8, 100)):
        with pytest.raises(UserError):
            fit(make_table(n, d, losses(n, d, 0.005, 0)), law=law, bootstrap=0)


def test_five_runs_are_enough_for_tied_exponents() -> None:
    """Gadre et al. 2024: four sizes at 20 tokens a parameter and the smallest at 320 identify four parameters, not five."""
    n = np.array([1.06e7, 7.9e7, 1.54e8, 4.1e8, 1.06e7])
    d = n * np.array([20, 20, 20, 20, 320])
    table = make_table(n, d, losses(n, d, 0.002, 0))
    assert fit(table, law="overtraining", bootstrap=0).n_runs == 5
    with pytest.raises(UserError, match="5 usable runs can't identify 5 parameters: at least 7 are needed"):
        fit(table, bootstrap=0)


def test_repetition_needs_runs_that_repeat() -> None:
    n, d = grid(1e8, 5, 30, 4, 30)
    table = make_table(n, d, losses(n, d, 0.005, 0))
    with pytest.raises(UserError, match="add a column unique_tokens"):
        fit(table, law="data_constrained", bootstrap=0)
    fresh = RunTable(source="", frame=table.frame.assign(unique_tokens=d))
    with pytest.raises(UserError, match="repeat"):
        fit(fresh, law="data_constrained", bootstrap=0)
