"""What a fit says of its own optimum, and of runs that its law was not stated for."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fitting.fit import fit
from analysis.laws import get_law
from analysis.runs.table import RunTable
from tests.analysis.tables import BESIROGLU, make_table, predict

CONSTRAINED = get_law("data_constrained")
TRUTH = CONSTRAINED.as_vector({"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.353, "R_D_star": 15.4, "R_N_star": 5.3})


def repeating(sizes: np.ndarray) -> RunTable:
    """Sizes by tokens by corpora, of which some are seen up to 40 times."""
    n, epochs, unique = (x.ravel() for x in np.meshgrid(sizes, [0.5, 1, 4, 40], np.geomspace(1e9, 8e9, 3)))
    d = epochs * unique
    loss = CONSTRAINED.predict(TRUTH, n, d, unique) * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(n)))
    return make_table(n, d, loss, unique_tokens=unique)


def test_a_parameter_that_no_run_feels_is_named_and_has_no_interval() -> None:
    """R_N* is about sizes beyond what their unique tokens can use: (A/B)^(1/alpha) a token, here 0.051."""
    small = fit(repeating(np.geomspace(1e6, 2e7, 5)), law="data_constrained", bootstrap=100)
    assert small.convergence.unfelt == ("R_N_star",)
    assert small.ci95 is not None
    assert set(small.ci95) == set(small.params) - {"R_N_star"}
    assert np.isfinite(small.convergence.condition_number)
    assert any("no run feels R_N_star" in warning for warning in small.warnings)
    large = fit(repeating(np.geomspace(1e7, 5e9, 5)), law="data_constrained", bootstrap=100)
    assert large.convergence.unfelt == ()
    assert large.ci95 is not None
    assert "R_N_star" in large.ci95
    assert not any("no run feels" in warning for warning in large.warnings)


def test_repeated_data_under_a_law_that_knows_none_are_told() -> None:
    table = repeating(np.geomspace(1e7, 5e9, 5))
    told = [warning for warning in fit(table, bootstrap=0).warnings if "repeat their data" in warning]
    assert len(told) == 1
    assert told[0].startswith(
        "30 of 60 runs repeat their data (up to 40 epochs), which the law chinchilla doesn't know"
    )
    others = (
        fit(table, law="data_constrained", bootstrap=0),
        fit(RunTable(source="", frame=table.frame.assign(unique_tokens=np.nan)), bootstrap=0),
        fit(RunTable(source="", frame=table.frame.assign(unique_tokens=table.frame["n_tokens"])), bootstrap=0),
    )
    assert not any("repeat their data" in warning for found in others for warning in found.warnings)


@pytest.mark.parametrize(
    ("law", "counting", "told"),
    [("kaplan", "n_params", True), ("kaplan", "n_params_non_embedding", False), ("chinchilla", "n_params", False)],
)
def test_another_count_than_the_laws_own_is_told(law: str, counting: str, told: bool) -> None:
    n, ratio = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(5, 160, 6)))
    table = make_table(n, n * ratio, predict(BESIROGLU | {"E": 0.5}, n, n * ratio))
    counted = RunTable(source="", frame=table.frame.assign(n_params_non_embedding=0.9 * n))
    found = fit(counted, law=law, counting=counting, bootstrap=0)
    assert any("stated for n_params_non_embedding" in warning for warning in found.warnings) == told
