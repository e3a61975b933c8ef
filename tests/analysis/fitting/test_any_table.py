"""Any file of runs gives a fit and a report of finite numbers, or one clear message: no traceback, no NaN as a result."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.fitting.describe_fit import describe_fit
from analysis.fitting.extrapolation import expanding_window, forecast
from analysis.fitting.fit import fit
from analysis.fitting.fit_json import fit_json
from analysis.fitting.objective import OBJECTIVES
from analysis.fitting.residual_structure import residual_structure
from analysis.laws import law_names
from analysis.page.report import write_report
from analysis.plots.gallery import save_pictures
from analysis.plots.picture import Absent
from analysis.runs.load import load_runs
from analysis.study import analyse
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design

#: What people's files hold.
ODD = st.sampled_from(
    ["", "nan", "NaN", "inf", "-inf", "0", "-1", "abc", "1,000", "1e400", "1e300", "1e-300", "5e-324", "0x10"]
)


@st.composite
def cell(draw: st.DrawFn, low: float, high: float) -> str:
    if draw(st.integers(0, 19)) == 0:
        return draw(ODD)
    return repr(float(np.exp(draw(st.floats(np.log(low), np.log(high))))))


@st.composite
def near_law(draw: st.DrawFn) -> list[list[str]]:
    """Rows that mostly follow a law over few or many sizes and lengths, some of them spoilt."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes, lengths = draw(st.sampled_from([1, 2, 3, 4, 5, 6])), draw(st.sampled_from([1, 3, 4, 5, 7]))
    n = np.repeat(1e7 * draw(st.sampled_from([1.05, 2.0, 4.0, 10.0])) ** np.arange(sizes), lengths)
    d = n * np.tile(draw(st.sampled_from([1.1, 2.0, 3.0])) ** np.arange(lengths), sizes) * 5
    noise = draw(st.sampled_from([0.0, 1e-12, 0.01, 1.0]))
    loss = predict(BESIROGLU, n, d) * np.exp(noise * rng.standard_normal(len(n)))
    rows = [[repr(float(x)) for x in row] for row in zip(n, d, loss, strict=True)]
    for _ in range(draw(st.integers(0, 4))):
        rows[draw(st.integers(0, len(rows) - 1))][draw(st.integers(0, 2))] = draw(ODD)
    repeats = draw(st.integers(0, 3))
    return rows + rows[:repeats]


anything = st.lists(st.tuples(cell(1, 1e12), cell(1, 1e14), cell(1e-3, 100)).map(list), min_size=1, max_size=40)
one_loss = st.lists(st.tuples(cell(1e6, 1e10), cell(1e8, 1e12)).map(lambda nd: [*nd, "2.5"]), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(anything, one_loss, near_law(), near_law(), near_law()),
    objective=st.sampled_from(OBJECTIVES),
    law=st.sampled_from(["chinchilla", "chinchilla", *law_names()]),
    drop=st.booleans(),
    more=st.sampled_from([(), ("weight",), ("held_out",), ("unique_tokens",), ("weight", "held_out", "unique_tokens")]),
    data=st.data(),
)
@pytest.mark.filterwarnings("error")
def test_finite_numbers_or_a_message(
    tmp_path: Path,
    rows: list[list[str]],
    objective: str,
    law: str,
    drop: bool,
    more: tuple[str, ...],
    data: st.DataObject,
) -> None:
    file = tmp_path / "runs.csv"
    extra = {
        "weight": st.sampled_from(["1", "2.5", "1e-9", "1e9", "", "0"]),
        "held_out": st.sampled_from(["true", "false", "false", "maybe"]),
        "unique_tokens": st.sampled_from(["", "1e9", "1e3", "inf"]),
    }
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["n_params", "n_tokens", "loss", *more])
        writer.writerows([*row, *(data.draw(extra[name]) for name in more)] for row in rows)
    try:
        table = load_runs(file)
        found = fit(table, law=law, objective=objective, bootstrap=20, drop_outliers=drop)
    except UserError:
        return
    document = fit_json(found)
    json.dumps(document, allow_nan=False)
    numbers = [*document["params"].values(), *(end for ends in document["ci95"].values() for end in ends)]
    assert None not in [*numbers, document["objective_value"], document["exponents"]["n_opt"]]
    assert "nan" not in describe_fit(found).lower()
    for axis in residual_structure(found).axes:
        assert axis.p_value is None or 0 <= axis.p_value <= 1
    try:
        ahead = expanding_window(table, found)
    except UserError:
        return
    there = forecast(found, ahead, found.fitted_range.n_params.hi, 10 * found.fitted_range.n_tokens.hi)
    # The upper end may be endless, where the windows were off by hundreds of e-folds.
    assert np.isfinite([there.ci95.lo, there.loss, ahead.growth]).all()
    assert there.ci95.lo <= there.loss <= there.ci95.hi


def write_family(path: Path, seed: int) -> None:
    """A family of models whose loss may hardly depend on size or data, with any of the columns that a report reads."""
    rng = np.random.default_rng(seed)
    sizes, lengths = rng.choice([3, 4, 5]), rng.choice([3, 4, 5])
    n = np.repeat(1e7 * rng.choice([2.0, 4.0, 10.0]) ** np.arange(sizes), lengths)
    d = n * np.tile(rng.choice([2.0, 3.0]) ** np.arange(lengths), sizes) * 5
    by_size = rng.choice([482.0, 0.0, 1e-3]) * n ** -rng.choice([0.35, 0.05, 2.0])
    by_data = 2085 * d ** -rng.choice([0.36, 0.05, 1.0])
    noise = np.exp(rng.choice([0.0, 0.003, 0.05, 0.5]) * rng.standard_normal(len(n)))
    some = {
        "flops_budget": rng.choice([1e18, 1e19, 1e20], len(n)),
        "flops": 6 * n * d * np.exp(rng.normal(0, 0.1, len(n))),
        "group": [f"trunk {k % 5}" for k in range(len(n))],
        "design": [f"cell {k // 2}" for k in range(len(n))],
        "unique_tokens": d / rng.choice([1, 3, 10], len(n)),
        "held_out": rng.random(len(n)) > 0.8,
        "weight": rng.choice([1, 1e-6, 1e6], len(n)),
        "peak_lr": rng.choice([1e-3, 2e-3, 5e-3], len(n)),
    }
    columns = {
        "n_params": n,
        "n_tokens": d,
        "loss": np.abs(rng.choice([0.0, 1.8, -1.0, 5.0]) + by_size + by_data) * noise,
    }
    columns |= {name: values for name, values in some.items() if rng.random() < 0.35}
    pd.DataFrame(columns).to_csv(path, index=False)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    law=st.sampled_from(law_names()),
    seed=st.integers(0, 2**32 - 1),
    bootstrap=st.sampled_from([0, 20]),
    question=st.fixed_dictionaries(
        {},
        optional={
            "target_loss": st.floats(0.5, 5.0),
            "demand_tokens": st.floats(0.0, 1e20),
            "unique_tokens": st.floats(1e7, 1e13),
        },
    ),
)
@pytest.mark.filterwarnings("error")
def test_a_whole_report_of_finite_numbers_or_a_message(
    tmp_path: Path, law: str, seed: int, bootstrap: int, question: dict[str, float]
) -> None:
    file = tmp_path / "family.csv"
    write_family(file, seed)
    try:
        study = analyse(load_runs(file), law=law, bootstrap=bootstrap, **question)  # type: ignore[arg-type]
    except UserError:
        return
    for saved in save_pictures(study, tmp_path / "report"):
        assert isinstance(saved, Absent) or saved.png.stat().st_size > 0
    page = write_report(study, tmp_path / "report").read_text(encoding="utf-8")
    told = re.sub(r"<(script|style|svg)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert "Scaling study" in told
    assert not re.findall(r".{,40}\bnan\b.{,40}", told, flags=re.IGNORECASE)


def test_a_number_that_floats_but_cannot_be_meant_is_left_out() -> None:
    n_params, n_tokens = spread_design(30, np.random.default_rng(0))
    loss = predict(BESIROGLU, n_params, n_tokens)
    n_params[3] = 1e200
    found = fit(make_table(n_params, n_tokens, loss), bootstrap=0)
    assert found.n_runs == 29
    assert [(out.run_id, out.reason) for out in found.excluded] == [
        ("run-3", "n_params is 1e+200, which is not between 1e-30 and 1e+30")
    ]
    assert found.params["alpha"] == pytest.approx(BESIROGLU["alpha"], rel=1e-3)


def test_ten_thousand_runs() -> None:
    n_params, n_tokens = spread_design(10_000, np.random.default_rng(0))
    noise = np.exp(0.01 * np.random.default_rng(1).standard_normal(10_000))
    found = fit(make_table(n_params, n_tokens, predict(BESIROGLU, n_params, n_tokens) * noise), bootstrap=0)
    assert found.params["alpha"] == pytest.approx(BESIROGLU["alpha"], abs=0.01)
    assert residual_structure(found).axes[0].p_value is not None
