"""Task columns of a table: the right form for each, held-out runs predicted, a refusal in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.downstream.describe_downstream import describe_downstream, downstream_json
from analysis.downstream.of_runs import downstream_results
from analysis.runs.table import RunTable
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design

GADRE = {"epsilon": 0.86, "k": 2.2, "gamma": 0.75}


def table_with_error(noise: float = 0.002) -> RunTable:
    rng = np.random.default_rng(0)
    n_params, n_tokens = spread_design(60, rng)
    loss = predict(BESIROGLU, n_params, n_tokens)
    error = GADRE["epsilon"] - GADRE["k"] * np.exp(-GADRE["gamma"] * loss) + noise * rng.standard_normal(60)
    table = make_table(n_params, n_tokens, loss, held_out=[i % 6 == 0 for i in range(60)])
    return replace(table, frame=table.frame.assign(task_error=error))


def test_an_error_is_fitted_over_loss_and_predicted_where_held_out() -> None:
    [found] = downstream_results(table_with_error(), bootstrap=50)
    assert (found.target, found.against) == ("task_error", "loss")
    assert found.fit is not None
    assert found.fit.n_runs == 50
    assert found.n_held_out == 10
    assert found.held_out_error == pytest.approx(0.002 * np.sqrt(2 / np.pi), rel=0.6)
    [document] = downstream_json((found,))
    assert document["held_out"]["n"] == 10
    assert "held-out" in describe_downstream((found,))[0]


def test_a_table_without_task_columns_has_none() -> None:
    table = table_with_error()
    assert downstream_results(replace(table, frame=table.frame.assign(task_error=np.nan))) == ()


def test_what_cannot_be_fitted_says_why() -> None:
    table = table_with_error()
    [found] = downstream_results(replace(table, frame=table.frame.assign(task_error=0.5)), bootstrap=0)
    assert found.fit is None
    assert found.absent
    assert describe_downstream((found,))[0].startswith("No curve of task_error")
    assert downstream_json((found,))[0]["absent"] == found.absent
