"""Frozen forecasts: what is written, that a changed file is refused, and what counts as a forecast come due."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.fitting.extrapolation import expanding_window, forecast
from analysis.fitting.fit import fit
from analysis.forecasts.describe_forecasts import check_json, describe_check, describe_frozen, frozen_json
from analysis.forecasts.forecast_check import check_forecasts
from analysis.forecasts.freeze import freeze, read_frozen
from analysis.laws import get_law
from analysis.results import Fit, Frozen
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design

RUNS, HELD_OUT, WAITING = 40, 3, 6
NOISE = 0.003


def everything() -> RunTable:
    """All runs as they are in the end, in one order: fitted, held out, and those that finish later."""
    n, d = spread_design(RUNS + HELD_OUT + WAITING, np.random.default_rng(0))
    loss = predict(BESIROGLU, n, d) * np.exp(NOISE * np.random.default_rng(1).standard_normal(len(n)))
    held_out = [RUNS <= i < RUNS + HELD_OUT for i in range(len(n))]
    return make_table(n, d, loss, held_out=held_out)


def before(table: RunTable) -> RunTable:
    """The same table while the last runs are under way: planned, without a loss."""
    frame = table.frame.copy()
    waiting = np.arange(len(frame)) >= RUNS + HELD_OUT
    started = np.arange(len(frame)) % 2 == 0
    return replace(
        table,
        frame=frame.assign(
            loss=np.where(waiting, np.nan, frame["loss"]),
            planned_tokens=np.where(waiting, frame["n_tokens"], np.nan),
            n_tokens=np.where(waiting & started, frame["n_tokens"] / 2, frame["n_tokens"]),
            status=np.where(waiting, "started", "finished"),
            excluded=np.where(waiting, np.where(started, "unfinished", "unstarted"), ""),
        ),
    )


@pytest.fixture(scope="module")
def law() -> Fit:
    return fit(before(everything()), bootstrap=100)


@pytest.fixture
def frozen(law: Fit, tmp_path: Path) -> Frozen:
    return freeze(law, before(everything()), tmp_path / "law.json", cells=[(3e10, 1e12)])


def test_what_the_law_has_not_seen_is_forecast(frozen: Frozen, law: Fit) -> None:
    kinds = [one.kind for one in frozen.forecasts]
    assert kinds == ["held_out"] * HELD_OUT + ["unfinished"] * WAITING + ["cell"]
    end = everything().frame.iloc[RUNS:]
    assert [one.run_id for one in frozen.forecasts] == [*end["run_id"], None]
    # An unfinished run is forecast at the tokens that it is planned for.
    assert [one.n_tokens for one in frozen.forecasts[:-1]] == pytest.approx(end["n_tokens"].tolist())
    form = get_law(law.law)
    for one in frozen.forecasts:
        assert one.loss == pytest.approx(float(form.predict(form.as_vector(law.params), one.n_params, one.n_tokens)))
        assert one.ci95 == forecast(law, None, one.n_params, one.n_tokens).ci95
        assert one.quantiles is not None
        assert list(one.quantiles) == sorted(one.quantiles)
        assert one.ci95.lo < one.quantiles[0] <= one.quantiles[-1] < one.ci95.hi
        assert (one.known_loss is None) == (one.kind != "held_out")
    assert len(frozen.fitted) == RUNS
    assert frozen.params == law.params
    assert frozen.data_digest == law.data_digest != ""


def test_extrapolation_widens_the_intervals(law: Fit, tmp_path: Path) -> None:
    table = before(everything())
    error = replace(expanding_window(table, law), growth=0.05)
    plain = freeze(law, table, tmp_path / "plain.json", cells=[(1e12, 1e14)]).forecasts[-1]
    wide = freeze(law, table, tmp_path / "wide.json", cells=[(1e12, 1e14)], extrapolation=error).forecasts[-1]
    assert wide.loss == plain.loss
    assert wide.ci95.hi - wide.ci95.lo > 2 * (plain.ci95.hi - plain.ci95.lo)
    assert plain.note is not None
    assert "untested" in plain.note


def test_nothing_is_overwritten_and_nothing_changed_is_read(frozen: Frozen, law: Fit) -> None:
    path = Path(frozen.path)
    written = path.read_text()
    with pytest.raises(UserError, match="never overwritten"):
        freeze(law, before(everything()), path)
    assert path.read_text() == written
    assert read_frozen(path) == frozen
    document = json.loads(written)
    # Layout is no content.
    path.write_text(json.dumps(dict(reversed(document.items())), indent=7))
    assert read_frozen(path).sha256 == frozen.sha256
    # The hash is what anybody can work out: canonical JSON without the hash.
    content = {name: value for name, value in document.items() if name != "sha256"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == frozen.sha256


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_value_is_found(frozen: Frozen, data: st.DataObject) -> None:
    document = json.loads(Path(frozen.path).read_text())
    at, where = document, []
    while isinstance(at, dict | list) and at:
        where.append((at, data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))))
        at = at[where[-1][1]]
    parent, key = where[-1]
    parent[key] = 0.5 if parent[key] != 0.5 else 1.5
    changed = Path(frozen.path).with_name("changed.json")
    changed.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"was changed since it was frozen|its format is not"):
        read_frozen(changed)


def test_files_that_are_no_forecasts_are_refused(tmp_path: Path, law: Fit) -> None:
    path = tmp_path / "other.json"
    with pytest.raises(UserError, match="does not exist"):
        read_frozen(path)
    for text, words in (("not json", "can't be read"), ("[]", "its format"), ('{"format": "x"}', "its format")):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            read_frozen(path)
    with pytest.raises(UserError, match="can't be written"):
        freeze(law, before(everything()), tmp_path / "missing" / "law.json")
    for cell in ((0.0, 1e9), (1e9, -1.0), (np.nan, 1e9), (1e9, np.inf)):
        with pytest.raises(UserError, match="a cell to forecast"):
            freeze(law, before(everything()), tmp_path / "cells.json", cells=[cell])
    assert not (tmp_path / "cells.json").exists()
    n, d = spread_design(10, np.random.default_rng(5))
    other = make_table(n, d, predict(BESIROGLU, n, d))
    with pytest.raises(UserError, match="was not fitted to"):
        freeze(law, other, tmp_path / "other-table.json")


def test_before_anything_finished_all_is_pending(frozen: Frozen) -> None:
    check = check_forecasts(frozen, before(everything()))
    assert check.n == 0
    assert check.coverage is None
    assert check.mean_abs_rel_error is None
    assert check.n_known == HELD_OUT
    assert len(check.pending) == WAITING + 1
    assert len(check.fitted_runs) == RUNS
    assert check.changed == check.not_forecast == ()
    assert describe_check(check)[0].startswith(f"None of {WAITING + 1} forecasts")


def test_finished_runs_are_held_against_their_forecasts(frozen: Frozen) -> None:
    table = everything()
    check = check_forecasts(frozen, table)
    assert check.n == WAITING
    assert check.pending == (frozen.forecasts[-1].name,)
    assert len(check.fitted_runs) == RUNS
    measured = table.frame.set_index("run_id")["loss"]
    for row in check.rows:
        assert row.measured == measured[row.run_id]
        assert row.rel_error == pytest.approx(row.predicted / row.measured - 1)
        assert row.inside == (row.ci95.lo <= row.measured <= row.ci95.hi)
        assert row.before_the_fact == (row.kind == "unfinished")
    ahead = [row for row in check.rows if row.before_the_fact]
    assert check.coverage == pytest.approx(np.mean([row.inside for row in ahead]))
    assert check.coverage is not None
    assert check.coverage > 0.6
    assert check.max_abs_rel_error is not None
    assert check.max_abs_rel_error == pytest.approx(max(abs(row.rel_error) for row in ahead))
    assert check.max_abs_rel_error < 5 * NOISE
    document = json.loads(json.dumps(check_json(check), allow_nan=False))
    assert document["n"] == WAITING
    assert document["held_out"]["n"] == HELD_OUT
    assert len(document["forecasts"]) == WAITING + HELD_OUT
    assert any("no test of foresight" in words for words in describe_check(check))


def test_a_run_outside_its_interval_is_told(frozen: Frozen) -> None:
    frame = everything().frame
    off = frame.assign(loss=np.where(frame["run_id"] == f"run-{RUNS + HELD_OUT}", frame["loss"] * 1.1, frame["loss"]))
    check = check_forecasts(frozen, replace(everything(), frame=off))
    row = next(row for row in check.rows if row.run_id == f"run-{RUNS + HELD_OUT}")
    assert not row.inside
    assert row.rel_error == pytest.approx(-0.09, abs=0.02)
    assert check.coverage is not None
    assert check.coverage <= 1 - 1 / WAITING


def test_cells_and_moved_rows_are_found_by_their_numbers(law: Fit, tmp_path: Path) -> None:
    """A CSV's row ids move when a row is put in above: runs are then known by N, D and loss."""
    table = before(everything())
    frozen = freeze(law, table, tmp_path / "law.json", cells=[(3e10, 1e12)])
    end = everything().frame
    cell = end.iloc[[0]].assign(n_params=3e10, n_tokens=1.004e12, loss=float(frozen.forecasts[-1].loss * 1.001))
    moved = replace(
        table,
        frame=make_table(*(np.concatenate([cell[name], end[name]]) for name in ("n_params", "n_tokens", "loss"))).frame,
    )
    check = check_forecasts(frozen, moved)
    assert check.changed == ()
    assert len(check.fitted_runs) == RUNS
    found = [row for row in check.rows if row.kind == "cell"]
    assert [row.run_id for row in found] == ["run-0"]
    assert found[0].rel_error == pytest.approx(1 / 1.001 - 1)
    assert check.n == WAITING + 1
    assert check.pending == ()


def test_fitted_runs_that_changed_or_went_are_said_and_never_counted(frozen: Frozen) -> None:
    frame = everything().frame
    frame = frame.assign(loss=np.where(frame["run_id"] == "run-2", frame["loss"] * 1.02, frame["loss"]))
    gone = replace(everything(), frame=frame[frame["run_id"] != "run-5"])
    check = check_forecasts(frozen, gone)
    assert len(check.changed) == 2
    assert any("run-2 had the loss" in words for words in check.changed)
    assert any("run-5" in words and "is gone" in words for words in check.changed)
    assert "run-2" in check.fitted_runs
    assert "run-2" not in [row.run_id for row in check.rows]
    assert check.not_forecast == ()
    frame = everything().frame
    held = f"run-{RUNS}"
    frame = frame.assign(loss=np.where(frame["run_id"] == held, frame["loss"] * 1.02, frame["loss"]))
    again = check_forecasts(frozen, replace(everything(), frame=frame))
    assert any(f"held-out run {held} had" in words for words in again.changed)


def test_runs_that_no_one_asked_about_are_named(frozen: Frozen) -> None:
    frame = everything().frame
    new = frame.iloc[[0]].assign(run_id="new", name="new", n_params=1.234e9, n_tokens=5.6e10)
    check = check_forecasts(frozen, replace(everything(), frame=pd.concat([frame, new])))
    assert check.not_forecast == ("new",)
    assert any("never forecast: new" in words for words in describe_check(check))
    with pytest.raises(UserError, match="no finished run with n_params"):
        check_forecasts(frozen, replace(everything(), frame=frame.iloc[:0]))


def test_a_dropped_outlier_was_seen_and_is_no_forecast(tmp_path: Path) -> None:
    table = before(everything())
    frame = table.frame.assign(loss=np.where(table.frame["run_id"] == "run-3", 9.0, table.frame["loss"]))
    table = replace(table, frame=frame)
    law = fit(table, bootstrap=0, drop_outliers=True)
    assert len(law.dropped) == 1
    cell = frame.iloc[3]
    frozen = freeze(law, table, tmp_path / "law.json", cells=[(float(cell["n_params"]), float(cell["n_tokens"]))])
    assert [run.run_id for run in frozen.seen] == ["run-3"]
    check = check_forecasts(frozen, table)
    assert check.n == 0
    assert "run-3" in check.fitted_runs
    assert frozen.forecasts[-1].quantiles is None
    assert frozen.ci95 is None


@pytest.mark.parametrize("kind", ["mid-schedule", "duplicate", "unit"])
def test_a_known_loss_is_no_forecast_whatever_the_run_was_left_out_for(tmp_path: Path, kind: str) -> None:
    """Kept later, the run is still one that was seen; a cell of its N and D knows its loss."""
    table = before(everything())
    frame = table.frame.assign(excluded=table.frame["excluded"].where(table.frame["run_id"] != "run-3", f"{kind}: why"))
    cell = frame.iloc[3]
    frozen = freeze(
        fit(replace(table, frame=frame), bootstrap=0),
        replace(table, frame=frame),
        tmp_path / "law.json",
        cells=[(float(cell["n_params"]), float(cell["n_tokens"]))],
    )
    assert [run.run_id for run in frozen.seen] == ["run-3"]
    assert frozen.forecasts[-1].known_loss == cell["loss"]
    check = check_forecasts(frozen, table)
    assert check.n == 0
    assert "run-3" in check.fitted_runs
    assert frozen.forecasts[-1].name not in check.pending


def test_a_worse_learning_rate_tests_no_forecast(frozen: Frozen) -> None:
    table = everything()
    frame = table.frame.assign(peak_lr=1e-3)
    [last] = frame.index[frame["run_id"] == f"run-{RUNS + HELD_OUT}"]
    hot = frame.loc[[last]].assign(run_id="hot", name="hot", peak_lr=1e-2, loss=frame["loss"][last] * 1.2)
    check = check_forecasts(frozen, replace(table, frame=pd.concat([frame, hot], ignore_index=True)))
    plain = check_forecasts(frozen, table)
    assert check.rows == plain.rows
    assert "hot" not in check.not_forecast


def test_words_and_document_of_what_was_frozen(frozen: Frozen) -> None:
    words = describe_frozen(frozen)
    assert f"forecasts of {HELD_OUT} held-out, {WAITING} unfinished, 1 named runs" in words[0]
    assert frozen.sha256 in words[1]
    assert len(words) == 2 + len(frozen.forecasts)
    document = json.loads(json.dumps(frozen_json(frozen), allow_nan=False))
    assert document["sha256"] == frozen.sha256
    assert len(document["forecasts"]) == len(frozen.forecasts)
