"""Outliers by the stated rule: named, and taken out only when told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.fitting.fit import fit
from analysis.fitting.outliers import robust_sd
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design


def table_with(off: dict[int, float], runs: int = 60, noise: float = 0.004, seed: int = 0) -> RunTable:
    rng = np.random.default_rng(seed)
    n, d = spread_design(runs, rng)
    loss = predict(BESIROGLU, n, d) * np.exp(noise * rng.standard_normal(runs))
    for row, factor in off.items():
        loss[row] *= factor
    return make_table(n, d, loss)


def test_they_stay_with_their_residuals_in_the_record() -> None:
    found = fit(table_with({7: 1.2, 30: 0.85}), bootstrap=0)
    assert [run.run_id for run in found.outliers] == ["run-7", "run-30"]
    assert found.outliers[0].log_residual == pytest.approx(-np.log(1.2), abs=0.02)
    assert found.outliers[0].robust_sds > 20
    assert "5 robust sds" in found.outlier_rule
    assert (found.n_runs, found.dropped) == (60, ())


@pytest.mark.parametrize("objective", ["huber_log", "lsq_log"])
def test_a_run_of_more_weight_may_be_off_by_less(objective: str) -> None:
    """A run of weight 25 stands for the mean of 25: it scatters a fifth as much, and 4 % off is far where 0.4 % is usual."""
    rng = np.random.default_rng(1)
    n, d = spread_design(60, rng)
    weight = np.where(np.arange(60) % 2 == 0, 25.0, 1.0)
    noise = 0.02 * rng.standard_normal(60).clip(-2, 2) / np.sqrt(weight)
    noise[[10, 11]] = 0.05
    table = make_table(n, d, predict(BESIROGLU, n, d) * np.exp(noise))
    heavy = RunTable(source="", frame=table.frame.assign(weight=weight))
    found = fit(heavy, bootstrap=0, objective=objective)
    assert [run.run_id for run in found.outliers] == ["run-10"]
    assert [run.run_id for run in fit(heavy, bootstrap=0, objective=objective, drop_outliers=True).dropped] == [
        "run-10"
    ]
    by_id = {point.run_id: point.noise_scale for point in found.points}
    assert by_id["run-11"] == pytest.approx(5 * by_id["run-10"])
    ordinary = np.delete(np.arange(60), [10, 11])
    typical = fit(RunTable(source="", frame=heavy.frame.iloc[ordinary]), bootstrap=0, objective=objective).residual_sd
    assert typical == pytest.approx(0.02 / np.sqrt(5), rel=0.2)


def test_dropped_runs_leave_the_fit_of_the_others() -> None:
    table = table_with({7: 1.2, 30: 0.85})
    found = fit(table, bootstrap=0, drop_outliers=True)
    without = RunTable(source="", frame=table.frame[~table.frame["run_id"].isin(["run-7", "run-30"])])
    assert [run.run_id for run in found.dropped] == ["run-7", "run-30"]
    assert (found.n_runs, found.outliers) == (58, ())
    assert found.params == pytest.approx(fit(without, bootstrap=0).params, rel=1e-6)
    reasons = {out.run_id: out.reason for out in found.excluded}
    assert reasons["run-7"].startswith("dropped as an outlier: its loss is 19.")
    assert not any(point.run_id == "run-7" for point in found.points)


def test_dropping_goes_on_until_no_run_is_off() -> None:
    """Under least squares a run far off hides one that is less so: the second fit shows it."""
    table = table_with({7: 3.0, 8: 3.0, 9: 3.0, 30: 1.06})
    first = fit(table, bootstrap=0, objective="lsq")
    assert "run-30" not in {run.run_id for run in first.outliers}
    found = fit(table, bootstrap=0, objective="lsq", drop_outliers=True)
    assert {run.run_id for run in found.dropped} == {"run-7", "run-8", "run-9", "run-30"}
    assert found.outliers == ()


def test_a_clean_table_loses_nothing() -> None:
    for seed in range(10):
        found = fit(table_with({}, noise=0.01, seed=seed), bootstrap=0, drop_outliers=True)
        assert (found.dropped, found.outliers, found.n_runs) == ((), (), 60)


def test_a_design_that_dropping_breaks_is_refused() -> None:
    n = np.array([1e8] * 6 + [1e9] * 6 + [4e9])
    d = np.concatenate([np.geomspace(1e9, 1e11, 6), np.geomspace(1e9, 1e11, 6), [2e10]])
    loss = predict(BESIROGLU, n, d) * np.exp(0.001 * np.random.default_rng(0).standard_normal(13))
    table = make_table(np.append(n, [2e9] * 3), np.append(d, [3e9, 3e10, 9e10]), np.append(loss, [5.0, 1.2, 4.0]))
    with pytest.raises(UserError, match=r"without the .* outliers: "):
        fit(replace(table, frame=table.frame[table.frame["n_params"] != 4e9]), bootstrap=0, drop_outliers=True)


def test_the_robust_sd_looks_past_the_runs_that_a_fit_goes_through() -> None:
    noise = 0.01 * np.random.default_rng(0).standard_normal(4000)
    assert robust_sd(np.append(noise, np.zeros(2000)), 2000) == pytest.approx(0.01, rel=0.05)
    assert robust_sd(np.append(noise, np.full(400, 9.0)), 0) == pytest.approx(0.0115, rel=0.05)
