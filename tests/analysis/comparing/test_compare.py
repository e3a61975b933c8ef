"""Two tables as a compute multiplier: known truths are covered, a changing multiplier is told from a constant one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.comparing.compare import compare
from analysis.comparing.describe_comparison import compare_json, describe_comparison
from analysis.comparing.multiplier import growth, log_multiplier, optimal_loss, tied_multiplier
from analysis.comparing.paired_design import paired
from analysis.decisions.costs import flops_rule, training_flops
from analysis.fitting.fit import fit
from analysis.intervals import interval
from analysis.laws import get_law, law_names
from analysis.results import Comparison
from analysis.runs.load import load_runs
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design

SIX_N = flops_rule(6.0, "6 N")
LAW = get_law("chinchilla")


def better(by: float, law: dict[str, float] = BESIROGLU) -> dict[str, float]:
    """The law of a recipe whose every parameter and token is worth sqrt(by): L_B(C) = L_A(by C) at the optimum."""
    worth = by**0.5
    return {**law, "A": law["A"] * worth ** -law["alpha"], "B": law["B"] * worth ** -law["beta"]}


def made(
    law: dict[str, float], *, noise: float = 0.003, seed: int = 0, design: int = 0, runs: int = 60, name: str = "runs"
) -> RunTable:
    n, d = spread_design(runs, np.random.default_rng(design))
    loss = predict(law, n, d) * np.exp(noise * np.random.default_rng(seed + 1000).standard_normal(runs))
    return replace(make_table(n, d, loss, flops=6 * n * d), source=name)


@pytest.fixture(scope="module")
def doubled() -> Comparison:
    return compare(made(BESIROGLU, name="old"), made(better(2.0), seed=1, design=1, name="new"), bootstrap=200)


def test_a_known_multiplier_is_covered(doubled: Comparison) -> None:
    assert doubled.verdict == "constant"
    assert doubled.headline == doubled.constant
    assert doubled.headline.ci95 is not None
    assert 2.0 in doubled.headline.ci95
    assert doubled.headline.value == pytest.approx(2.0, rel=0.15)
    assert 1.0 not in doubled.headline.ci95
    assert doubled.p_constant is not None
    assert doubled.p_constant > 0.05
    assert doubled.slope.ci95 is not None
    assert 0.0 in doubled.slope.ci95
    inside = doubled.inside_G
    assert (doubled.multiplier.lo_G[inside] <= doubled.multiplier.mid_G[inside]).all()
    assert (doubled.multiplier.mid_G[inside] <= doubled.multiplier.hi_G[inside]).all()
    assert ((doubled.multiplier.lo_G < 2) & (doubled.multiplier.hi_G > 2))[inside].mean() > 0.9


def test_only_what_both_cover_is_inside(doubled: Comparison) -> None:
    """Inside, B's compute is within B's runs and A's compute for that loss within A's."""
    assert doubled.covered is not None
    assert 0 < doubled.inside_G.sum() < len(doubled.inside_G)
    for flops, m, inside in zip(doubled.flops_G, doubled.multiplier.mid_G, doubled.inside_G, strict=True):
        assert inside == (flops in doubled.b.flops and m * flops in doubled.a.flops)


@pytest.mark.parametrize("by", [0.5, 1.0, 8.0])
def test_without_noise_the_multiplier_is_exact_everywhere(by: float) -> None:
    found = compare(made(BESIROGLU, noise=0), made(better(by), noise=0, design=1), bootstrap=0)
    assert found.multiplier.mid_G == pytest.approx(np.full(len(found.flops_G), by), rel=1e-3)
    assert found.constant.value == pytest.approx(by, rel=1e-3)
    assert found.constant_loss_error < 1e-4
    assert found.slope.value == pytest.approx(0, abs=1e-3)
    assert found.headline.ci95 is None
    assert found.p_constant is None
    assert any("Nothing was resampled" in words for words in describe_comparison(found))


def test_turning_the_question_round_inverts_the_multiplier() -> None:
    """m_BA at A's compute m C is 1 / m_AB at C: the same pair of points on the two curves."""
    a, b = made(BESIROGLU), made({**better(2.0), "beta": 0.38}, seed=1, design=1)
    there = compare(a, b, bootstrap=0, at_flops=[1e20, 1e21])
    back = compare(b, a, bootstrap=0, at_flops=list(there.flops_G * there.multiplier.mid_G))
    assert back.multiplier.mid_G == pytest.approx(1 / there.multiplier.mid_G, rel=1e-6)
    assert there.loss.mid_G == pytest.approx(back.loss.mid_G, rel=1e-9)
    by_loss = compare(a, b, bootstrap=0, at_loss=list(there.loss.mid_G))
    assert by_loss.flops_G == pytest.approx(there.flops_G, rel=1e-6)
    assert by_loss.multiplier.mid_G == pytest.approx(there.multiplier.mid_G, rel=1e-6)


def test_at_a_loss_both_sides_compute_is_uncertain() -> None:
    a, b = made(BESIROGLU, noise=0.02), made(better(2.0), noise=0.02, seed=1, design=1)
    at_loss = compare(a, b, bootstrap=100, at_loss=[2.4])
    at_compute = compare(a, b, bootstrap=100, at_flops=list(at_loss.flops_G))
    assert at_loss.headline.value == pytest.approx(at_compute.headline.value)
    drawn = [fit(table, bootstrap=100, seed=seed).draws_KP for seed, table in ((0, a), (1, b))]
    curves = [optimal_loss("chinchilla", draws, SIX_N, 1e20) for draws in drawn if draws is not None]
    m = np.exp(curves[0].log_flops(np.array([2.4])) - curves[1].log_flops(np.array([2.4])))[:, 0]
    expected = interval(m)
    assert at_loss.headline.ci95 is not None
    assert at_loss.headline.ci95.lo == pytest.approx(expected.lo, rel=1e-6)
    assert at_loss.headline.ci95.hi == pytest.approx(expected.hi, rel=1e-6)
    assert at_loss.headline.ci95 != at_compute.headline.ci95


def test_a_growing_multiplier_is_told_from_a_constant_one() -> None:
    grown = {**BESIROGLU, "E": BESIROGLU["E"] - 0.15, "A": BESIROGLU["A"] * 1.1, "B": BESIROGLU["B"] * 1.1}
    found = compare(made(BESIROGLU), made(grown, seed=1, design=1), bootstrap=200)
    assert found.verdict == "grows"
    assert found.slope.value > 0
    assert found.p_constant is not None
    assert found.p_constant < 0.05
    assert found.covered is not None
    assert found.headline_flops == pytest.approx(found.covered.hi)
    assert found.headline != found.constant
    assert any("grows with compute" in words for words in describe_comparison(found))
    back = compare(made(grown, seed=1, design=1), made(BESIROGLU), bootstrap=200)
    assert back.verdict == "shrinks"


def test_equal_recipes_are_not_told_apart() -> None:
    found = compare(made(BESIROGLU), made(BESIROGLU, seed=7, design=3), bootstrap=200)
    assert found.headline.ci95 is not None
    assert 1.0 in found.headline.ci95
    assert "these runs can't tell" in describe_comparison(found)[0]


def test_one_design_is_resampled_together_whatever_the_order_of_its_runs() -> None:
    """What both recipes share, run by run, cancels: the same noise on the same cells leaves the multiplier exact."""
    a = made(BESIROGLU, noise=0.02)
    b = replace(
        a,
        frame=a.frame.assign(loss=a.frame["loss"] * predict(better(2.0), *_cells(a)) / predict(BESIROGLU, *_cells(a))),
    )
    shuffled = replace(b, frame=b.frame.iloc[np.random.default_rng(0).permutation(len(b.frame))].reset_index(drop=True))
    together = compare(a, shuffled, bootstrap=100)
    apart = compare(a, made(better(2.0), noise=0.02, seed=5, design=1), bootstrap=100)
    assert together.paired
    assert not apart.paired
    assert together.headline.ci95 is not None
    assert apart.headline.ci95 is not None
    assert 2.0 in together.headline.ci95
    assert _width(together) < _width(apart) / 3
    assert compare(a, b, bootstrap=100).headline.ci95 == pytest.approx(together.headline.ci95)


def _cells(table: RunTable) -> tuple[np.ndarray, np.ndarray]:
    return table.frame["n_params"].to_numpy(), table.frame["n_tokens"].to_numpy()


def _width(found: Comparison) -> float:
    assert found.headline.ci95 is not None
    return float(np.log(found.headline.ci95.hi / found.headline.ci95.lo))


def test_designs_pair_only_cell_by_cell() -> None:
    a = made(BESIROGLU)
    groups = [f"trunk-{i // 2}" for i in range(len(a.frame))]
    with_groups = replace(a, frame=a.frame.assign(group=groups))
    named = replace(a, frame=a.frame.assign(group=[f"other-{name}" for name in groups]))
    matched = paired(with_groups, named, "n_params")
    assert matched is not None
    assert matched.b.frame["group"].tolist() == groups
    assert matched.left_out_a == matched.left_out_b == 0
    crossed = replace(a, frame=a.frame.assign(group=["one"] * 30 + ["two"] * 30))
    assert paired(with_groups, crossed, "n_params") is None
    moved = a.frame.iloc[1:]
    moved = moved.assign(n_tokens=moved["n_tokens"] * np.where(moved.index == 3, 1.1, 1.0))
    part = paired(a, replace(a, frame=moved), "n_params")
    assert part is not None
    assert (part.left_out_a, part.left_out_b) == (2, 1)
    assert part.a.frame["n_tokens"].tolist() == part.b.frame["n_tokens"].tolist()
    assert paired(a, replace(a, frame=a.frame.iloc[15:]), "n_params") is None
    assert paired(a, replace(a, frame=a.frame.assign(held_out=True)), "n_params") is None


def test_losses_that_can_not_be_compared_are_refused() -> None:
    a, b = made(BESIROGLU, name="a.csv"), made(better(2.0), name="b.csv")
    for column, values in (("loss_unit", ("nats", "bits")),):
        with pytest.raises(UserError, match=r"losses of a.csv are in nats, those of b.csv in bits"):
            compare(
                replace(a, frame=a.frame.assign(**{column: values[0]})),
                replace(b, frame=b.frame.assign(**{column: values[1]})),
            )
    with pytest.raises(UserError, match=r"a.csv was validated on c4, b.csv on wiki"):
        compare(
            replace(a, frame=a.frame.assign(**{"bpb/c4": 1.0})), replace(b, frame=b.frame.assign(**{"bpb/wiki": 1.0}))
        )
    said = compare(a, b, bootstrap=0).warnings
    assert any("same validation text" in words and "nothing in the tables says so" in words for words in said)
    one = [replace(t, frame=t.frame.assign(**{"bpb/c4": 1.0})) for t in (a, b)]
    assert any("name the same domains" in words for words in compare(*one, bootstrap=0).warnings)


def test_bad_input_names_the_side_and_the_option() -> None:
    a, b = made(BESIROGLU), made(better(2.0))
    with pytest.raises(UserError, match=r"B \(few\) can't be fitted"):
        compare(a, replace(b, frame=b.frame.iloc[:3], source="few"))
    with pytest.raises(UserError, match="not at both"):
        compare(a, b, at_flops=[1e20], at_loss=[3.0])
    for bad in ([], [0.0], [np.nan], [np.inf], [-1e20]):
        with pytest.raises(UserError, match="at_flops"):
            compare(a, b, at_flops=bad, bootstrap=0)
    with pytest.raises(UserError, match=r"never reaches a loss of 0\.5"):
        compare(a, b, at_loss=[3.0, 0.5], bootstrap=0)
    bare = replace(b, frame=b.frame.assign(flops=np.nan), source="bare")
    assert any("since bare has no FLOPs" in words for words in compare(a, bare, bootstrap=0).warnings)


def test_ranges_that_never_meet_are_extrapolated_and_say_so() -> None:
    far = made(better(2.0), design=1)
    n, d = (1e4 * values for values in _cells(far))
    far = replace(make_table(n, d, predict(better(2.0), n, d), flops=6 * n * d), source="far")
    found = compare(made(BESIROGLU, noise=0), far, bootstrap=20)
    assert found.covered is None
    assert not found.inside_G.any()
    assert any("extrapolated" in words for words in found.warnings)
    assert "outside what both cover" in describe_comparison(found)[0]


def test_the_document_is_json(doubled: Comparison) -> None:
    document = json.loads(json.dumps(compare_json(doubled), allow_nan=False))
    assert document["multiplier"]["value"] == doubled.headline.value
    assert document["verdict"] == "constant"
    assert document["covered_flops"] == [doubled.covered.lo, doubled.covered.hi] if doubled.covered else None
    assert len(document["curve"]) == len(doubled.flops_G)
    assert set(document["curve"][0]) == {"flops", "loss", "loss_a", "multiplier", "ci95", "inside"}
    bare = compare(made(BESIROGLU), made(better(2.0)), bootstrap=0)
    assert json.loads(json.dumps(compare_json(bare), allow_nan=False))["multiplier"]["ci95"] is None
    assert "old needs" in describe_comparison(doubled)[0]
    assert "new is the better" in describe_comparison(doubled)[0]


def test_a_loss_that_a_never_reaches_is_no_number() -> None:
    """A's limit lies above B's best: the multiplier is infinite there, null in JSON, and the fit of one multiplier finite."""
    found = compare(
        made({**BESIROGLU, "E": 2.2}, noise=0), made(BESIROGLU, noise=0, design=1), bootstrap=0, at_flops=[1e19, 1e24]
    )
    assert np.isfinite(found.multiplier.mid_G[0])
    assert found.multiplier.mid_G[1] == np.inf
    assert json.loads(json.dumps(compare_json(found), allow_nan=False))["curve"][1]["multiplier"] is None
    assert np.isfinite(found.constant.value)


#: Laws whose parameters are Chinchilla's, or those and a k.
SHAPED = [name for name in law_names() if {"E", "A", "B"} <= set(get_law(name).parameter_names) <= {*BESIROGLU, "k"}]


@settings(max_examples=40, deadline=None)
@given(
    alpha=st.floats(0.1, 1.2),
    beta=st.floats(0.1, 1.2),
    by=st.floats(0.05, 50),
    power=st.floats(0.8, 1.2),
    law_name=st.sampled_from(SHAPED),
)
def test_the_closed_form_is_the_laws_own_optimum(
    alpha: float, beta: float, by: float, power: float, law_name: str
) -> None:
    """L*(C) agrees with the law at its optimum far from the reference, inverts, and a shifted law has a constant multiplier."""
    law = get_law(law_name)
    values = {**BESIROGLU, "alpha": alpha, "beta": beta, "k": 0.8}
    params = law.as_vector({name: values[name] for name in law.parameter_names})
    cost = replace(SIX_N, exponent=power)
    curve = optimal_loss(law.name, params, cost, 1e21)
    log_c = np.log(np.array([1e18, 1e21, 1e25]))
    expected = law.predict(params, *law.compute_optimum(params, np.exp(log_c), 6.0, power))
    assert curve.at(log_c) == pytest.approx(expected, rel=1e-9)
    moved = replace(curve, log_amplitude_K=curve.log_amplitude_K - curve.exponent_K * np.log(by))
    # What is above the limit is known to the rounding of the loss.
    rounding = 10 * np.finfo(float).eps * moved.at(log_c) / moved.above(log_c) / curve.exponent_K
    assert (np.abs(log_multiplier(curve, moved, log_c) - np.log(by)) <= 1e-9 + rounding).all()
    tied, misfit = tied_multiplier(curve, moved, log_c)
    assert float(tied[0]) == pytest.approx(np.log(by), abs=1e-4)
    assert np.abs(misfit).max() < 1e-6
    assert abs(float(growth(curve, moved, log_c[[0, -1]]))) <= 1e-9 + rounding.max()


def test_parts_of_one_file_are_called_a_and_b() -> None:
    found = compare(made(BESIROGLU, name="all.csv"), made(better(4.0), design=1, name="all.csv"), bootstrap=50)
    assert describe_comparison(found)[0].startswith("A needs ")
    assert "B is the better" in describe_comparison(found)[0]


@pytest.mark.parametrize("law_name", law_names())
def test_every_law_compares(law_name: str) -> None:
    """The closed form holds for each law as it was fitted, and twice the compute is found under each that can show it."""
    n, d = (values.ravel() for values in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    tables = []
    for by in (1.0, 2.0):
        values = better(by)
        loss = predict(values, n, d) * np.exp(0.002 * np.random.default_rng(int(by)).standard_normal(36))
        table = make_table(n, d, loss, flops=6 * n * d)
        tables.append(replace(table, frame=table.frame.assign(unique_tokens=np.where(n > 1e9, d, d / 8))))
    found = compare(*tables, law=law_name, objective="lsq_log", bootstrap=20)
    law, fitted = get_law(law_name), fit(tables[1], law=law_name, objective="lsq_log", bootstrap=0)
    params = law.as_vector(fitted.params)
    cost = training_flops(tables[1])
    expected = law.predict(params, *law.compute_optimum(params, found.flops_G, cost.slope, cost.exponent))
    assert found.loss.mid_G == pytest.approx(expected, rel=1e-6)
    assert np.isfinite(found.constant.value)
    assert 1.2 < found.constant.value < 4
    json.dumps(compare_json(found), allow_nan=False)
    assert any("fresh tokens" in words for words in found.warnings) == law.uses_unique_tokens


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), runs=st.integers(1, 30), spread=st.floats(0, 3), counted=st.booleans())
def test_random_tables_end_in_a_refusal_or_in_numbers(seed: int, runs: int, spread: float, counted: bool) -> None:
    rng = np.random.default_rng(seed)
    tables = []
    for _ in range(2):
        n, d = np.exp(rng.uniform(15, 15 + spread, runs)), np.exp(rng.uniform(20, 20 + spread, runs))
        tables.append(make_table(n, d, rng.uniform(1.5, 8, runs), flops=6 * n * d if counted else None))
    try:
        found = compare(*tables, bootstrap=10)
    except UserError:
        return
    document = json.loads(json.dumps(compare_json(found), allow_nan=False))
    assert document["verdict"] in ("constant", "grows", "shrinks")
    # Where A's curve is all but flat no finite compute makes up for B's: infinite, and null in JSON.
    assert found.constant.value >= 0
    assert np.isinf(found.constant.value) == (document["constant"]["multiplier"]["value"] is None)
    assert not any(re.search(r"\bnan", words) for words in describe_comparison(found))


def test_one_design_with_noise_drawn_is_not_taken_to_err_alike() -> None:
    """Redrawn noise of one stream would cancel between the two, which real noise doesn't: each side gets its own."""
    a = made(BESIROGLU, noise=0.01)
    ratio = predict(better(2.0), *_cells(a)) / predict(BESIROGLU, *_cells(a))
    b = replace(a, frame=a.frame.assign(loss=a.frame["loss"] * ratio))
    drawn = compare(a, b, bootstrap=100, resampling="parametric")
    by_run = compare(a, b, bootstrap=100, resampling="run")
    assert not drawn.paired
    assert by_run.paired
    assert _width(drawn) > 2 * _width(by_run)
    assert drawn.resampling is not None
    assert drawn.resampling.method == "parametric"


def test_outliers_dropped_on_one_side_end_the_pairing() -> None:
    a, b = made(BESIROGLU), made(better(2.0), seed=1)
    odd = replace(b, frame=b.frame.assign(loss=np.where(b.frame["run_id"] == "run-4", 8.0, b.frame["loss"])))
    found = compare(a, odd, bootstrap=50, drop_outliers=True)
    assert not found.paired
    assert found.b.n_runs == found.a.n_runs - 1
    assert compare(a, b, bootstrap=50, drop_outliers=True).paired


def test_three_training_sets_on_one_validation_loss(published_runs: Path, tmp_path: Path) -> None:
    """Gadre et al.'s runs scored on C4: training on C4 itself is worth more compute than RedPajama."""
    runs = pd.read_csv(published_runs / "gadre2024.csv")
    tables = {}
    for name, rows in runs.groupby("dataset"):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        tables[str(name)] = load_runs(tmp_path / f"{name}.csv", columns={"loss": "loss_c4_val"})
    found = compare(tables["rpj"], tables["c4_original"], bootstrap=200)
    assert found.covered is not None
    assert found.headline.ci95 is not None
    assert found.headline.ci95.lo > 1.1
    assert found.paired
    assert any("cut to the 33 runs of one design" in words for words in found.warnings)
    apart = compare(tables["rpj"], tables["c4_original"], bootstrap=200, pair=False)
    assert not apart.paired
    assert apart.headline.ci95 is not None
    assert apart.headline.ci95.hi - apart.headline.ci95.lo > found.headline.ci95.hi - found.headline.ci95.lo
    assert apart.a.n_runs == 35
    json.dumps(compare_json(found), allow_nan=False)
