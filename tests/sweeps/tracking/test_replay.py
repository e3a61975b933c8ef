"""Replays into a real SQLite store."""

import time
from pathlib import Path
from typing import Any

import pytest

from llama.config import RunConfig
from llama.metric_names import TAG_OUTCOME
from llama.records import FAILURE, INFERENCE, JOURNAL, Failure, read_inference, write_record
from llama.sweep_index import SweepIndex, SweepRun
from sweeps.tracking.replay import Replay
from sweeps.tracking.store import Store, TrackingError
from tests.sweeps.tracking.conftest import OpenReplay
from tests.sweeps.tracking.reading import assert_mirrors, journal_rows, mirrored_params, mirrored_rows, mirrored_runs
from tests.sweeps.tracking.synthetic import (
    begin,
    branch_of,
    make_config,
    make_point,
    plan_sweep,
    train,
    train_sweep,
    write_done,
    write_heartbeat,
    write_mark,
    write_points,
)

RUN = make_config(16, 1024 * 40)


def one_run(config: RunConfig = RUN, name: str = "w16") -> SweepIndex:
    run = SweepRun(key=config.key, name=name, trunk=None, is_trunk=config.is_trunk, flops_budget=None, held_out=False)
    return SweepIndex(sweep="one", sweep_id="id-one", corpus_folder="c", spec_folder=".", runs=[run])


def only(database: Path, key: str = RUN.key) -> dict[str, Any]:
    runs = mirrored_runs(database)[key]
    assert len(runs) == 1
    return runs[0]


def test_a_whole_sweep_is_mirrored_exactly_and_a_second_replay_sends_nothing(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    index, configs = plan_sweep(widths=(16, 24), budgets=(1e10, 2e10))
    train_sweep(tmp_path, index, configs)
    open_replay(tmp_path, index).advance(live=False)
    assert_mirrors(database, tmp_path, index)
    again = open_replay(tmp_path, index)
    again.advance(live=False)
    assert (again.points, again.behind) == (0, [])
    assert_mirrors(database, tmp_path, index)


def test_children_hang_under_one_parent_with_their_names_and_times(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    index, configs = plan_sweep(widths=(16,), budgets=(1e10,))
    train_sweep(tmp_path, index, configs)
    open_replay(tmp_path, index).advance(live=False)
    runs = mirrored_runs(database)
    [parent] = runs.pop("")
    assert (parent["name"], parent["run.kind"], parent["sweep.id"]) == ("demo", "sweep", "id-demo")
    for run in index.runs:
        [mirrored] = runs[run.key]
        assert mirrored["mlflow.parentRunId"] == parent["run_uuid"]
        assert (mirrored["name"], mirrored["status"]) == (run.name, "FINISHED")
        points = sorted(unix_ms for _, _, unix_ms, _ in journal_rows(tmp_path, run.key))
        assert (mirrored["start"], mirrored["end"]) == (points[0], points[-1])


def test_only_what_a_checkpoint_vouches_for_reaches_mlflow_while_it_trains(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    folder = begin(tmp_path, RUN)
    replay = open_replay(tmp_path, one_run())
    replay.advance(live=True)
    assert only(database)["status"] == "RUNNING"
    marked = write_points(folder, [make_point(RUN, step) for step in (1, 2)])
    write_points(folder, [make_point(RUN, 3)])
    write_mark(folder, RUN, 2, marked)
    replay.advance(live=True)
    assert mirrored_rows(database)[RUN.key] == journal_rows(tmp_path, RUN.key, until_bytes=marked)


def test_a_journal_truncated_to_its_checkpoint_and_rewritten_appears_once(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    folder = begin(tmp_path, RUN)
    marked = write_points(folder, [make_point(RUN, step) for step in (1, 2)])
    write_points(folder, [make_point(RUN, 3)])
    write_mark(folder, RUN, 2, marked)
    replay = open_replay(tmp_path, one_run())
    replay.advance(live=True)
    later = make_point(RUN, 3).model_copy(update={"unix_ms": make_point(RUN, 3).unix_ms + 5000})
    write_points(folder, [later], keep_bytes=marked)
    write_done(folder, RUN, 3)
    replay.advance(live=True)
    assert_mirrors(database, tmp_path, one_run())


def test_a_fall_back_behind_the_mirrored_checkpoint_leaves_no_stale_points(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    folder = begin(tmp_path, RUN)
    early = write_points(folder, [make_point(RUN, 1)])
    write_mark(folder, RUN, 2, write_points(folder, [make_point(RUN, 2)]))
    replay = open_replay(tmp_path, one_run())
    replay.advance(live=True)
    later = make_point(RUN, 2).model_copy(update={"unix_ms": make_point(RUN, 2).unix_ms + 5000})
    write_points(folder, [later], keep_bytes=early)
    write_done(folder, RUN, 2)
    replay.advance(live=True)
    assert_mirrors(database, tmp_path, one_run())


def test_a_diverged_run_is_failed_with_its_reason(tmp_path: Path, database: Path, open_replay: OpenReplay) -> None:
    folder = begin(tmp_path, RUN)
    write_points(folder, [make_point(RUN, 1)])
    write_done(folder, RUN, 1, reason="train loss nan at step 1")
    open_replay(tmp_path, one_run()).advance(live=True)
    run = only(database)
    assert (run["status"], run[TAG_OUTCOME], run["outcome.reason"]) == (
        "FAILED",
        "diverged",
        "train loss nan at step 1",
    )


def test_a_failed_attempt_shows_and_its_retry_runs_and_finishes(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    folder = begin(tmp_path, RUN)
    write_record(folder / FAILURE, Failure(attempt=1, kind="oom", message="out of memory", unix_ms=1))
    replay = open_replay(tmp_path, one_run())
    replay.advance(live=True)
    assert (only(database)["status"], only(database)["outcome.reason"]) == ("FAILED", "oom: out of memory")
    (folder / FAILURE).unlink()
    replay.advance(live=True)
    assert (only(database)["status"], only(database)[TAG_OUTCOME]) == ("RUNNING", "started")
    train(tmp_path, RUN)
    replay.advance(live=True)
    assert (only(database)["status"], only(database)["outcome.reason"]) == ("FINISHED", "")


@pytest.mark.parametrize(("beat_age_seconds", "status"), [(3600, "KILLED"), (0, "RUNNING")])
def test_without_a_launcher_the_heartbeat_tells_running_from_killed(
    tmp_path: Path, database: Path, open_replay: OpenReplay, beat_age_seconds: float, status: str
) -> None:
    folder = begin(tmp_path, RUN)
    write_heartbeat(folder, RUN, 1, unix_ms=int((time.time() - beat_age_seconds) * 1000), attempt=3)
    open_replay(tmp_path, one_run()).advance(live=False)
    assert (only(database)["status"], only(database)["attempt"]) == (status, "3")


def test_a_trunk_is_finished_once_its_last_fork_is_passed(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    trunk = make_config(16, None)
    branches = [branch_of(trunk, 1024 * steps) for steps in (60, 120)]
    runs = [SweepRun(key=trunk.key, name="t", trunk=None, is_trunk=True, flops_budget=None, held_out=False)]
    for branch in branches:
        runs.append(
            SweepRun(
                key=branch.key, name=branch.key, trunk=trunk.key, is_trunk=False, flops_budget=None, held_out=False
            )
        )
    index = SweepIndex(sweep="one", sweep_id="i", corpus_folder="c", spec_folder=".", runs=runs)
    replay = open_replay(tmp_path, index)
    train(tmp_path, trunk, until_step=branches[0].fork_step)
    begin(tmp_path, branches[0])
    replay.advance(live=True)
    assert only(database, trunk.key)["status"] == "RUNNING"
    train(tmp_path, trunk, until_step=branches[1].fork_step)
    begin(tmp_path, branches[1])
    replay.advance(live=True)
    assert (only(database, trunk.key)["status"], only(database, trunk.key)[TAG_OUTCOME]) == ("FINISHED", "finished")


def test_an_inference_measurement_arrives_late_once_and_anew_when_repeated(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    folder = train(tmp_path, RUN)
    cost = read_inference(folder)
    assert cost is not None
    (folder / INFERENCE).unlink()
    replay = open_replay(tmp_path, one_run())
    replay.advance(live=True)
    assert not any(row[0].startswith("inference/") for row in mirrored_rows(database)[RUN.key])
    write_record(folder / INFERENCE, cost)
    replay.advance(live=True)
    rows = mirrored_rows(database)[RUN.key]
    open_replay(tmp_path, one_run()).advance(live=False)
    assert mirrored_rows(database)[RUN.key] == rows
    write_record(folder / INFERENCE, cost.model_copy(update={"weight_bytes": 12345}))
    replay.advance(live=True)
    assert any(row[:2] == ("inference/weight_bytes", 12345) for row in mirrored_rows(database)[RUN.key])


def test_a_run_deleted_in_the_ui_comes_back_and_a_double_goes(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    train(tmp_path, RUN)
    first = open_replay(tmp_path, one_run())
    first.advance(live=False)
    store = first._store
    [mirrored] = store.find_runs().values()
    store.create("double", tags={"run.key": RUN.key}, start_ms=1)  # as a create that timed out leaves it
    open_replay(tmp_path, one_run()).advance(live=False)
    assert only(database)["run_uuid"] == mirrored.run_id
    store.delete(mirrored)
    open_replay(tmp_path, one_run()).advance(live=False)
    assert only(database)["run_uuid"] != mirrored.run_id
    assert_mirrors(database, tmp_path, one_run())


def test_a_param_that_differs_is_never_rewritten(
    tmp_path: Path, database: Path, open_replay: OpenReplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, RUN)
    open_replay(tmp_path, one_run()).advance(live=False)
    monkeypatch.setattr("sweeps.tracking.replay.run_params", lambda config: {"n_params": "other", "new": "1"})
    replay = open_replay(tmp_path, one_run())
    replay.advance(live=False)
    params = mirrored_params(database, only(database)["run_uuid"])
    assert replay.behind == []
    assert (params["n_params"] != "other", params["new"]) == (True, "1")


def test_two_folders_with_one_sweep_name_never_share_an_experiment(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    for storage in (tmp_path / "ada", tmp_path / "bob"):
        train(storage, RUN)
        replay = open_replay(storage, one_run())
        replay.advance(live=False)
    runs = mirrored_runs(database)[RUN.key]
    assert len({run["experiment"] for run in runs}) == 2


def test_one_damaged_run_is_reported_and_stops_no_other(
    tmp_path: Path, database: Path, open_replay: OpenReplay
) -> None:
    index, configs = plan_sweep(widths=(16, 24), budgets=(1e10,))
    train_sweep(tmp_path, index, configs)
    broken = index.runs[1]
    (tmp_path / "runs" / broken.key / JOURNAL).write_text("not json\n")
    replay = open_replay(tmp_path, index)
    replay.advance(live=False)
    assert replay.behind == [broken.name]
    assert JOURNAL in replay.troubles[broken.name]
    assert mirrored_rows(database).keys() == {run.key for run in index.runs} - {broken.key}


def test_an_idle_pass_asks_mlflow_nothing(
    tmp_path: Path, open_replay: OpenReplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, configs = plan_sweep(widths=(16,), budgets=(1e10,))
    train_sweep(tmp_path, index, configs)
    replay = open_replay(tmp_path, index)
    replay.advance(live=True)
    monkeypatch.setattr(replay, "_store", None)
    replay.advance(live=True)


def test_an_mlflow_that_is_away_is_not_asked_for_every_run(
    tmp_path: Path, open_replay: OpenReplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, configs = plan_sweep(widths=(16, 24), budgets=(1e10, 2e10, 4e10))
    train_sweep(tmp_path, index, configs)
    replay = open_replay(tmp_path, index)
    calls = []

    def away(self: Store, name: str, **_: object) -> None:
        calls.append(name)
        raise TrackingError("connection refused")

    monkeypatch.setattr(Store, "create", away)
    with pytest.raises(TrackingError, match="connection refused"):
        replay.advance(live=True)
    assert len(calls) < len(index.runs) / 2
    assert sorted(replay.behind) == sorted(run.name for run in index.runs)


def test_the_parent_ends_as_its_runs_did(tmp_path: Path, database: Path, open_replay: OpenReplay) -> None:
    begin(tmp_path, RUN)
    replay: Replay = open_replay(tmp_path, one_run())
    statuses = []
    for live in (True, False):
        replay.advance(live=live)
        replay.mark_parent(live=live)
        statuses.append(only(database, "")["status"])
    train(tmp_path, RUN)
    replay.advance(live=False)
    replay.mark_parent(live=False)
    assert [*statuses, only(database, "")["status"]] == ["RUNNING", "KILLED", "FINISHED"]
