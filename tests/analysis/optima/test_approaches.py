"""The three approaches side by side: they agree on clean designs, and what one can't say is absent with its reason."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.decisions.costs import training_flops
from analysis.fitting.fit import fit
from analysis.fitting.fit_json import approaches_json
from analysis.laws import get_law
from analysis.optima.approach_readers import NO_BUDGETS
from analysis.optima.approaches import approach, approaches
from analysis.optima.describe_approaches import describe_approaches
from analysis.optima.envelope import interpolate
from analysis.optima.isoflop import isoflop
from analysis.optima.power_laws import loss_curves, power_laws
from analysis.results import Approaches
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design

LAW = get_law("chinchilla")
TRUTH = LAW.as_vector(BESIROGLU)


def ladder(
    noise: float = 0.0,
    *,
    budgets: bool = True,
    grouped: bool = True,
    sizes: int = 12,
    truth: dict[str, float] = BESIROGLU,
) -> RunTable:
    """Ten budgets over two decades, fixed sizes within a factor of six of each budget's optimum."""
    levels = np.geomspace(1e19, 1e21, 10)
    n_params, n_tokens, declared = [], [], []
    for level in levels:
        best = float(LAW.compute_optimum(LAW.as_vector(truth), level)[0])
        for size in np.geomspace(5e7, 5e9, sizes):
            if best / 6 < size < best * 6:
                n_params.append(size)
                n_tokens.append(level / 6 / size)
                declared.append(level)
    n, d = np.array(n_params), np.array(n_tokens)
    loss = predict(truth, n, d) * np.exp(noise * np.random.default_rng(0).standard_normal(len(n)))
    return make_table(
        n,
        d,
        loss,
        flops=6 * n * d,
        budgets=np.array(declared) if budgets else None,
        groups=[f"trunk-{size:.3g}" for size in n] if grouped else None,
    )


@pytest.fixture(scope="module")
def clean() -> Approaches:
    return approaches(ladder(), bootstrap=50)


def test_on_clean_runs_all_three_find_the_optimum(clean: Approaches) -> None:
    """At ten times the largest compute; the envelope is a staircase of sizes, so it comes only near."""
    assert clean.flops == pytest.approx(1e22)
    n_opt, d_opt = (float(value) for value in LAW.compute_optimum(TRUTH, clean.flops))
    loss = float(LAW.predict(TRUTH, n_opt, d_opt))
    for one, near in zip(clean.approaches, (0.05, 0.02, 1e-4), strict=True):
        assert one.absent == {}
        assert one.n_opt is not None
        assert one.d_opt is not None
        assert one.loss is not None
        assert one.n_opt_exponent is not None
        assert one.d_opt_exponent is not None
        assert one.n_opt.value == pytest.approx(n_opt, rel=near)
        assert one.d_opt.value == pytest.approx(d_opt, rel=near)
        assert one.loss.value == pytest.approx(loss, rel=near / 10)
        assert one.n_opt_exponent.value == pytest.approx(float(LAW.exponents(TRUTH)[0]), abs=near / 5)
        assert one.n_opt_exponent.value + one.d_opt_exponent.value == pytest.approx(1, abs=1e-6)
        for estimate in (one.n_opt, one.d_opt, one.loss, one.n_opt_exponent, one.d_opt_exponent):
            assert estimate.ci95 is not None
            assert np.isfinite([estimate.ci95.lo, estimate.ci95.hi]).all()
            assert estimate.ci95.lo <= estimate.ci95.hi
    assert [one.name for one in clean.approaches] == ["envelope", "isoflop", "surface"]
    assert clean.n_opt_spread == pytest.approx(1, abs=0.05)
    assert clean.warnings == ()


def test_the_power_laws_are_the_numbers_told(clean: Approaches) -> None:
    for one in clean.approaches[:2]:
        assert one.n_opt is not None
        assert one.d_opt is not None
        for quantity, told in (("n_opt", one.n_opt), ("d_opt", one.d_opt)):
            by_hand = one.params[f"{quantity}_coefficient"] * clean.flops ** one.params[f"{quantity}_exponent"]
            assert told.value == pytest.approx(by_hand, rel=1e-9)


def test_intervals_cover_the_truth_and_are_seeded() -> None:
    table = ladder(0.002)
    first, again, other = (approaches(table, bootstrap=100, seed=seed) for seed in (1, 1, 2))
    n_opt = float(LAW.compute_optimum(TRUTH, first.flops)[0])
    for one, same, differs in zip(first.approaches, again.approaches, other.approaches, strict=True):
        assert one == same
        assert one.n_opt is not None
        assert one.n_opt.ci95 is not None
        assert differs.n_opt is not None
        assert one.n_opt.ci95 != differs.n_opt.ci95
        assert one.n_opt.ci95.lo / 1.1 < n_opt < one.n_opt.ci95.hi * 1.1


def test_near_equal_flops_are_never_merged() -> None:
    found = approaches(ladder(budgets=False), bootstrap=0)
    first, second, third = found.approaches
    assert second.absent == {"all": NO_BUDGETS}
    assert second.n_opt is None
    assert found.isoflop is None
    assert first.n_opt is not None
    assert third.n_opt is not None
    assert first.ci95 is None
    assert first.n_opt.ci95 is None


def test_an_envelope_needs_three_sizes_between_others() -> None:
    """With sizes trained at one length each there is no curve; with three sizes only the middle one can be an optimum."""
    n_params, n_tokens = spread_design(30, np.random.default_rng(0))
    lone = make_table(n_params, n_tokens, predict(BESIROGLU, n_params, n_tokens))
    assert "0 of 30 sizes" in approaches(lone, bootstrap=0).approaches[0].absent["all"]
    few = approaches(ladder(sizes=4), bootstrap=0)
    assert "of the sizes that have a smaller and a larger one beside them" in few.approaches[0].absent["all"]
    assert few.envelope is not None
    assert any(point.edge for point in few.envelope.points)


def test_a_bowl_with_its_least_at_the_edge_is_left_out_and_said() -> None:
    table = ladder()
    frame = table.frame
    largest = frame["flops_budget"] == frame["flops_budget"].max()
    best = LAW.compute_optimum(TRUTH, float(frame["flops_budget"].max()))[0]
    cut = replace(table, frame=frame[~(largest & (frame["n_params"] > best))])
    found = approaches(cut, bootstrap=0).approaches[1]
    assert any("the largest size" in words or "outside the sizes" in words for words in found.warnings)
    assert found.n_opt is not None
    whole = approaches(table, bootstrap=0, flops=1e22).approaches[1]
    assert whole.n_opt is not None
    assert found.n_opt.value == pytest.approx(whole.n_opt.value, rel=0.1)


def test_a_cubic_shows_a_lopsided_bowl() -> None:
    """A wide bowl of unequal exponents: the parabola's vertex is off by 44 %, the cubic's by 12 %."""
    law = {**BESIROGLU, "alpha": 0.6, "A": 2e4}
    budget = 1e20
    best = float(LAW.compute_optimum(LAW.as_vector(law), budget)[0])
    n = best * np.geomspace(0.02, 30, 9)
    d = budget / 6 / n
    table = make_table(n, d, predict(law, n, d), flops=6 * n * d, budgets=np.full(9, budget))
    bowls = isoflop(table, training_flops(table))
    assert bowls is not None
    vertex = bowls.vertices[0]
    assert vertex.n_opt is not None
    assert vertex.cubic is not None
    assert abs(np.log(vertex.cubic.n_opt / best)) < abs(np.log(vertex.n_opt / best))
    assert vertex.cubic.ratio == pytest.approx(vertex.cubic.n_opt / vertex.n_opt)
    assert vertex.cubic.differs
    x = np.log(vertex.cubic.n_opt) - vertex.ln_n_centre
    c0, c1, c2, c3 = vertex.cubic.coefficients
    assert c1 + 2 * c2 * x + 3 * c3 * x**2 == pytest.approx(0, abs=1e-9)
    assert vertex.cubic.loss == pytest.approx(c0 + c1 * x + c2 * x**2 + c3 * x**3)
    centred = best * np.geomspace(0.5, 2, 4)
    few = make_table(
        centred, budget / 6 / centred, predict(law, centred, budget / 6 / centred), budgets=np.full(4, budget)
    )
    four = isoflop(few, training_flops(few))
    assert four is not None
    assert four.vertices[0].cubic is None


def test_on_a_parabola_the_cubic_agrees() -> None:
    x = np.linspace(-1, 1, 7)
    n = np.exp(x) * 1e8
    table = make_table(n, 1e20 / 6 / n, 3 + 0.1 * (x - 0.2) ** 2, flops=np.full(7, 1e20), budgets=np.full(7, 1e20))
    bowls = isoflop(table, training_flops(table))
    assert bowls is not None
    vertex = bowls.vertices[0]
    assert vertex.n_opt == pytest.approx(1e8 * np.exp(0.2), rel=1e-6)
    assert vertex.cubic is not None
    assert vertex.cubic.ratio == pytest.approx(1, rel=1e-6)
    assert not vertex.cubic.differs


def test_a_given_fit_is_taken_as_it_is() -> None:
    table = ladder(0.002)
    law = fit(table, bootstrap=20, objective="lsq_log")
    found = approaches(table, bootstrap=0, fit=law).approaches[2]
    assert found.params == law.params
    assert found.objective == "lsq_log"


def test_a_design_that_says_nothing_is_absent_three_times() -> None:
    """Runs at one ratio D/N identify no law, and one run a size makes neither bowls nor an envelope."""
    n = np.geomspace(1e8, 1e9, 8)
    table = make_table(n, 20 * n, predict(BESIROGLU, n, 20 * n))
    found = approaches(table, bootstrap=10)
    assert all(one.n_opt is None for one in found.approaches)
    assert "N and D move together" in found.approaches[2].absent["all"]
    assert found.n_opt_spread is None


def test_in_words_each_says_its_optimum_or_why_not(clean: Approaches) -> None:
    said = describe_approaches(clean).splitlines()
    assert "1e22 FLOPs (10x the largest run's)" in said[0]
    assert [words.split()[2] for words in said[1:4]] == ["1,", "2,", "3,"]
    assert all("N_opt ~ C^0.51" in words for words in said[1:4])
    bare = describe_approaches(approaches(ladder(budgets=False), bootstrap=0))
    assert "no answer: no run declares a compute budget" in bare


def test_bowls_see_weights_and_no_run_that_is_held_out() -> None:
    table = ladder()
    frame = table.frame
    budget = frame["flops_budget"] == frame["flops_budget"].max()
    odd = frame[budget].iloc[[2]].assign(loss=frame["loss"].min() * 0.9, run_id="odd", name="odd")
    cost = training_flops(table)
    alone = isoflop(table, cost)
    assert alone is not None
    for spoiled in (odd.assign(held_out=True), odd.assign(weight=1e-12)):
        found = isoflop(replace(table, frame=pd.concat([frame, spoiled], ignore_index=True)), cost)
        assert found is not None
        assert found.vertices[-1].n_opt == pytest.approx(alone.vertices[-1].n_opt, rel=1e-6)
    seen = isoflop(replace(table, frame=pd.concat([frame, odd], ignore_index=True)), cost)
    assert seen is not None
    assert seen.vertices[-1].n_opt != pytest.approx(alone.vertices[-1].n_opt, rel=1e-3)


def test_one_approach_alone() -> None:
    table = ladder(0.001)
    whole = approaches(table, bootstrap=20)
    alone = approach(table, 1, bootstrap=20)
    assert alone.approaches[0].n_opt == whole.approaches[0].n_opt
    with pytest.raises(UserError, match=r"approach 2 can't be had from made runs: no run declares"):
        approach(ladder(budgets=False), 2)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="the budget to compare at"):
            approaches(table, flops=bad)
    with pytest.raises(UserError, match="no counting rule"):
        approaches(table, counting="size")
    with pytest.raises(UserError, match="bootstrap is -1"):
        approaches(table, bootstrap=-1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), runs=st.integers(1, 40), sizes=st.integers(1, 8), levels=st.integers(1, 5))
def test_random_tables_end_in_numbers_or_reasons(seed: int, runs: int, sizes: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    n = rng.choice(np.geomspace(1e6, 1e9, sizes), runs)
    budget = rng.choice(np.geomspace(1e15, 1e18, levels), runs)
    d = budget / 6 / n
    loss = rng.uniform(1, 8, runs)
    found = approaches(make_table(n, d, loss, flops=6 * n * d, budgets=budget), bootstrap=10)
    for one in found.approaches:
        for name in ("n_opt", "d_opt", "loss", "n_opt_exponent", "d_opt_exponent"):
            estimate = getattr(one, name)
            assert estimate is not None or name in one.absent or "all" in one.absent
            assert estimate is None or np.isfinite(estimate.value)
            assert estimate is None or estimate.ci95 is None or estimate.ci95.lo <= estimate.ci95.hi
    json.dumps(approaches_json(found), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), knots=st.integers(2, 8))
def test_interpolation_goes_through_its_points_and_is_exact_for_parabolas(seed: int, knots: int) -> None:
    """Of several functions at once, each with other knots left out, and never beyond those that it has."""
    rng = np.random.default_rng(seed)
    x = np.cumsum(rng.uniform(0.1, 2, knots))
    y = rng.standard_normal((6, knots))
    y[rng.random((6, knots)) < 0.3] = np.nan
    at = np.sort(np.concatenate([x, np.linspace(x[0] - 1, x[-1] + 1, 31)]))
    found = interpolate(x, y, at)
    a, b, c = rng.standard_normal((3, 6, 1))
    parabola = interpolate(x, np.where(np.isnan(y), np.nan, a + b * x + c * x**2), at)
    for k in range(6):
        there = ~np.isnan(y[k])
        if there.sum() < 2:
            assert np.isnan(found[k]).all()
            continue
        ends = x[there][[0, -1]]
        assert (np.isnan(found[k]) == ((at < ends[0] - 1e-9) | (at > ends[1] + 1e-9))).all()
        for knot in np.flatnonzero(there):
            assert found[k][np.searchsorted(at, x[knot])] == pytest.approx(y[k, knot], abs=1e-9)
        inside = ~np.isnan(found[k])
        expected = a[k] + b[k] * at + c[k] * at**2
        if there.sum() == 2:
            expected = np.interp(at, x[there], (a[k] + b[k] * x + c[k] * x**2)[there])
        assert parabola[k][inside] == pytest.approx(expected[inside], abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(limit=st.floats(0, 3), amplitude=st.floats(0.05, 3), exponent=st.floats(0.05, 1), points=st.integers(4, 30))
def test_loss_curves_are_found_again(limit: float, amplitude: float, exponent: float, points: int) -> None:
    log_c = np.linspace(40, 48, points)
    loss = limit + amplitude * np.exp(-exponent * (log_c - log_c.mean()))
    found = loss_curves(log_c, loss[None])
    assert found.at(float(np.exp(log_c[-1])))[0] == pytest.approx(loss[-1], rel=1e-3)
    assert (loss_curves(log_c[:3], loss[None, :3]).limit_K != loss_curves(log_c[:3], loss[None, :3]).limit_K).all()


def test_power_laws_skip_what_is_missing() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    y = np.array([[1.0, 3.0, np.nan, 7.0], [np.nan, np.nan, np.nan, 2.0], [2.0, 2.0, 2.0, 2.0]])
    found = power_laws(x, y)
    assert found.exponent_K[[0, 2]] == pytest.approx([2, 0])
    assert found.log_coefficient_K[[0, 2]] == pytest.approx([1, 2])
    assert np.isnan(found.exponent_K[1])
