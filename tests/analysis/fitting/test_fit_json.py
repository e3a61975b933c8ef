"""The document of `isoloss fit --json`: one shape whatever the approach, and never a number that isn't one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fitting.extrapolation import expanding_window
from analysis.fitting.fit import fit
from analysis.fitting.fit_json import approaches_json, fit_json
from analysis.fitting.residual_structure import residual_structure
from analysis.optima.approaches import approach, approaches
from analysis.results import Interval
from analysis.runs.table import RunTable
from tests.analysis.optima.test_approaches import ladder
from tests.analysis.tables import BESIROGLU


def written(document: dict[str, Any]) -> dict[str, Any]:
    """As a reader of the JSON gets it; a NaN or an infinity raises."""
    read: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    return read


@pytest.fixture(scope="module")
def table() -> RunTable:
    return ladder(0.002)


def test_every_approach_gives_the_same_keys(table: RunTable) -> None:
    surface = written(fit_json(fit(table, bootstrap=20)))
    assert list(surface)[:12] == [
        "law",
        "objective",
        "delta",
        "counting",
        "n_runs",
        "params",
        "ci95",
        "objective_value",
        "exponents",
        "held_out",
        "excluded",
        "warnings",
    ], "the keys that readers of the document rely on come first, in this order"
    for number, law in ((1, "envelope"), (2, "isoflop")):
        found = approach(table, number, bootstrap=20)
        document = written(fit_json(found))
        assert list(document) == list(surface)
        assert document["law"] == law
        assert document["approach"] == number
        assert set(document["held_out"]) == set(surface["held_out"])
        assert set(document["exponents"]) == set(surface["exponents"])
        assert list(document["params"]) == [
            "n_opt_coefficient",
            "n_opt_exponent",
            "d_opt_coefficient",
            "d_opt_exponent",
        ]
        assert document["exponents"]["n_opt"] == document["params"]["n_opt_exponent"]
        assert document["exponents"]["ci95"]["n_opt"] == document["ci95"]["n_opt_exponent"]
        for name, value in document["params"].items():
            lo, hi = document["ci95"][name]
            assert lo <= value <= hi
        bare = written(fit_json(approach(table, number, bootstrap=0)))
        assert bare["ci95"] is bare["exponents"]["ci95"] is bare["resampling"] is None
        assert bare["params"] == document["params"]


def test_what_was_asked_of_a_law_stands_in_the_document(table: RunTable) -> None:
    frame = table.frame.assign(loss=np.where(table.frame["run_id"] == "run-7", 5.0, table.frame["loss"]))
    with_outlier = replace(table, frame=frame)
    law = fit(with_outlier, bootstrap=20)
    document = written(
        fit_json(law, structure=residual_structure(law), extrapolation=expanding_window(with_outlier, law))
    )
    assert document["convergence"]["n_starts"] == law.convergence.n_starts
    assert document["convergence"]["bound_hits"] == []
    assert document["resampling"]["draws"] == 20
    assert document["data_digest"] == law.data_digest
    assert [run["name"] for run in document["outliers"]["flagged"]] == ["run-7"]
    assert document["outliers"]["dropped"] == []
    assert document["outliers"]["rule"]
    assert len(document["structure"]["axes"]) == 3
    assert any(window["rms_log_error"] is not None for window in document["extrapolation"]["windows"])
    dropped = written(fit_json(fit(with_outlier, bootstrap=0, drop_outliers=True)))
    assert [run["name"] for run in dropped["outliers"]["dropped"]] == ["run-7"]
    assert dropped["structure"] is dropped["extrapolation"] is dropped["resampling"] is None


@settings(max_examples=20, deadline=None)
@given(value=st.sampled_from([np.nan, np.inf, -np.inf]), name=st.sampled_from(["E", "alpha"]))
def test_what_is_no_number_is_null(value: float, name: str) -> None:
    law = fit(ladder(), bootstrap=0)
    broken = replace(
        law,
        params={**law.params, name: float(value)},
        ci95={name: Interval(lo=0.0, hi=float(value))},
        objective_value=float(value),
        convergence=replace(law.convergence, gradient_norm=float(value), condition_number=float(value)),
    )
    document = written(fit_json(broken))
    assert document["params"][name] is None
    assert document["ci95"][name] == [0.0, None]
    assert document["objective_value"] is None
    assert document["convergence"]["gradient_norm"] is None


def test_side_by_side_as_a_document(table: RunTable) -> None:
    found = approaches(table, bootstrap=20)
    document = written(approaches_json(found))
    assert [one["approach"] for one in document["approaches"]] == [1, 2, 3]
    for one, record in zip(document["approaches"], found.approaches, strict=True):
        assert record.n_opt is not None
        assert record.n_opt.ci95 is not None
        assert one["n_params"] == {"value": record.n_opt.value, "ci95": [record.n_opt.ci95.lo, record.n_opt.ci95.hi]}
        assert one["absent"] == {}
    assert len(document["bowls"]) == 10
    assert document["bowls"][0]["cubic"]["differs"] is False
    bare = written(approaches_json(approaches(ladder(budgets=False, truth=BESIROGLU), bootstrap=0)))
    assert bare["bowls"] == []
    assert "not merged" in bare["approaches"][1]["absent"]["all"]
    assert bare["approaches"][1]["n_params"] is None
