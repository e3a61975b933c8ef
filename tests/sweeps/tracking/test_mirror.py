"""The background uploader and `sync`, on a real SQLite store."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.tracking._tracking_service import utils

from llama.errors import UserError
from sweeps.tracking import Mirror, StudyReport, TrackingError, check_tracking, log_report, serve_ui, sync
from sweeps.tracking.claim import Claim
from sweeps.tracking.moved import mend_artifact_places
from sweeps.tracking.store import MlflowRun, Store
from sweeps.tracking.uri import OFF, default_tracking_uri, sqlite_uri
from tests.sweeps.tracking.reading import assert_mirrors, mirrored_rows, mirrored_runs
from tests.sweeps.tracking.synthetic import plan_sweep, train_sweep

INDEX, CONFIGS = plan_sweep(widths=(16, 24), budgets=(1e10, 2e10))


def dead_server() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://ada:hunter2@127.0.0.1:{probe.getsockname()[1]}"


def test_a_mirror_that_is_stopped_has_sent_everything(tmp_path: Path, database: Path) -> None:
    mirror = Mirror(tmp_path, INDEX, sqlite_uri(database))
    mirror.start()
    train_sweep(tmp_path, INDEX, CONFIGS)
    report = mirror.stop(60)
    assert (report.trouble, report.behind) == (None, ())
    assert report.points == sum(sum(rows.values()) for rows in mirrored_rows(database).values())
    assert_mirrors(database, tmp_path, INDEX)
    [parent] = mirrored_runs(database)[""]
    assert parent["status"] == "FINISHED"


def test_a_launch_names_its_code_on_the_runs_that_it_begins(tmp_path: Path, database: Path) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    mirror = Mirror(tmp_path, INDEX, sqlite_uri(database))
    mirror.start()
    mirror.stop(60)
    assert all("code.version" in run[0] for key, run in mirrored_runs(database).items() if key)


def test_a_second_launch_makes_no_second_runs(tmp_path: Path, database: Path) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    for expect_points in (True, False):
        mirror = Mirror(tmp_path, INDEX, sqlite_uri(database))
        mirror.start()
        assert (mirror.stop(60).points > 0) is expect_points
    assert_mirrors(database, tmp_path, INDEX)


def searches(storage: Path, database: Path, monkeypatch: pytest.MonkeyPatch, *, fail_first: bool = False) -> list[str]:
    """What one mirror, started and stopped, asked MLflow to search for."""
    asked: list[str] = []
    search = Store._search

    def note(store: Store, filter_string: str, **how: int) -> Iterator[MlflowRun]:
        asked.append(filter_string)
        if fail_first and len(asked) == 1:
            raise TrackingError("timed out")
        return search(store, filter_string, **how)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_search", note)
        mirror = Mirror(storage, INDEX, sqlite_uri(database))
        mirror.start()
        assert mirror.stop(60).trouble is None
    return [filter_string for filter_string in asked if "kind" not in filter_string]


def test_a_mirror_searches_only_for_a_sweep_that_changed_since_all_was_sent(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    assert searches(tmp_path, database, monkeypatch, fail_first=True)
    assert searches(tmp_path, database, monkeypatch), "a mirror that lost an answer vouches for nothing"
    assert not searches(tmp_path, database, monkeypatch)
    assert_mirrors(database, tmp_path, INDEX)

    done = tmp_path / "runs" / INDEX.runs[-1].key / "DONE"
    os.utime(done, ns=(done.stat().st_atime_ns, done.stat().st_mtime_ns + 1_000_000))
    assert searches(tmp_path, database, monkeypatch)
    assert not searches(tmp_path, database, monkeypatch)


def test_what_was_lost_of_mlflow_is_sent_again(
    tmp_path: Path, database: Path, empty_database: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    assert searches(tmp_path, database, monkeypatch)
    assert not searches(tmp_path, database, monkeypatch)
    database.write_bytes(empty_database)
    assert searches(tmp_path, database, monkeypatch)
    assert_mirrors(database, tmp_path, INDEX)


def test_a_server_that_is_away_costs_one_line_and_sync_makes_up_for_it(tmp_path: Path, database: Path) -> None:
    mirror = Mirror(tmp_path, INDEX, dead_server())
    mirror.start()
    train_sweep(tmp_path, INDEX, CONFIGS)
    report = mirror.stop(60)
    assert report.trouble is not None
    assert "isoloss sync demo" in report.trouble
    assert "hunter2" not in report.trouble
    assert "\n" not in report.trouble
    assert len(report.behind) == len(INDEX.runs)
    assert sync(tmp_path, INDEX, sqlite_uri(database)).behind == ()
    assert_mirrors(database, tmp_path, INDEX)


def test_whatever_goes_wrong_inside_is_told_and_not_raised(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("at https://ada:hunter2@host")

    monkeypatch.setattr("sweeps.tracking.mirror.Replay", broken)
    mirror = Mirror(tmp_path, INDEX, sqlite_uri(database))
    mirror.start()
    report = mirror.stop(60)
    assert report.trouble is not None
    assert "ZeroDivisionError: at https://***@host" in report.trouble


def test_sync_keeps_out_while_a_launch_mirrors(tmp_path: Path, database: Path) -> None:
    with Claim(tmp_path, INDEX.sweep), pytest.raises(UserError, match="another isoloss process is mirroring"):
        sync(tmp_path, INDEX, sqlite_uri(database))


def test_sync_says_when_the_server_is_away_or_the_uri_can_not_work(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="connection refused"):
        sync(tmp_path, INDEX, dead_server())
    with pytest.raises(UserError, match="folder"):
        sync(tmp_path, INDEX, "file:///somewhere")


def _killed_while_mirroring(storage: Path, uri: str, call: int) -> None:
    """Replay until the `call`-th write to MLflow, then die as `kill -9` does, right before it or right after it."""
    writes = 0

    def counted(method: str) -> None:
        original = getattr(MlflowClient, method)

        def write(self: MlflowClient, *arguments: object, **options: object) -> object:
            nonlocal writes
            writes += 1
            if writes == call and call % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(self, *arguments, **options)
            if writes == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(MlflowClient, method, write)

    for method in ("create_experiment", "create_run", "log_batch", "set_terminated"):
        counted(method)
    sync(storage, INDEX, uri)


def test_an_uploader_killed_at_any_write_leaves_nothing_double_and_nothing_missing(
    tmp_path: Path, database: Path
) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    forked = multiprocessing.get_context("fork")
    for call in range(1, 7):  # each goes on where the one before died
        uploader = forked.Process(target=_killed_while_mirroring, args=(tmp_path, sqlite_uri(database), call))
        uploader.start()
        uploader.join()
        assert uploader.exitcode == -signal.SIGKILL, f"write {call} never came"
    sync(tmp_path, INDEX, sqlite_uri(database))
    assert_mirrors(database, tmp_path, INDEX)


def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = default_tracking_uri(tmp_path)

    def make_and_die() -> None:
        os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        Store(uri, storage=tmp_path, index=INDEX, mirror_id="m")

    maker = multiprocessing.get_context("fork").Process(target=make_and_die)
    maker.start()
    maker.join()
    assert maker.exitcode == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
    assert sync(tmp_path, INDEX, uri).runs == len(INDEX.runs)


@pytest.fixture
def report(tmp_path: Path) -> StudyReport:
    folder = tmp_path / "report"
    (folder / "plots").mkdir(parents=True)
    (folder / "report.html").write_text("<p>the answer</p>")
    (folder / "plots" / "loss.csv").write_text("tokens,loss\n")
    return StudyReport(folder=folder, digest="d1", unix_ms=1, metrics={"fit/alpha": 0.34}, headline="train longer")


def parent_of(database: Path) -> Run:
    [parent] = mirrored_runs(database)[""]
    return MlflowClient(sqlite_uri(database)).get_run(parent["run_uuid"])


def test_a_report_lands_on_the_parent_with_its_numbers(tmp_path: Path, database: Path, report: StudyReport) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    uri = sqlite_uri(database)
    sync(tmp_path, INDEX, uri)
    assert log_report(tmp_path, INDEX, uri, report)
    sync(tmp_path, INDEX, uri, report=report)
    run = parent_of(database)
    assert (run.data.metrics["fit/alpha"], run.data.tags["answer"]) == (0.34, "train longer")
    client = MlflowClient(uri)
    assert len(client.get_metric_history(run.info.run_id, "fit/alpha")) == 1
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"report.html", "plots"}
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(tmp_path)
    assert_mirrors(database, tmp_path, INDEX)


def test_a_report_is_sent_once_and_again_after_an_upload_that_broke_off(
    tmp_path: Path, database: Path, report: StudyReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = sqlite_uri(database)

    def broken(*_: object) -> None:
        raise TrackingError("connection reset")

    with monkeypatch.context() as broken_once:
        broken_once.setattr(Store, "log_artifacts", broken)
        with pytest.raises(TrackingError, match="reset"):
            log_report(tmp_path, INDEX, uri, report)
    newer = dataclasses.replace(report, digest="d2")
    assert [log_report(tmp_path, INDEX, uri, one) for one in (report, report, newer)] == [True, False, True]


def test_runs_that_left_the_sweep_go_to_the_trash_and_come_back_with_their_points(
    tmp_path: Path, database: Path
) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    uri = sqlite_uri(database)
    sync(tmp_path, INDEX, uri)
    before = mirrored_runs(database)
    left = INDEX.runs[-1]
    shrunk = INDEX.model_copy(update={"runs": INDEX.runs[:-1]})
    assert (sync(tmp_path, shrunk, uri).retired, sync(tmp_path, shrunk, uri).retired) == (1, 0)
    assert_mirrors(database, tmp_path, shrunk)
    again = sync(tmp_path, INDEX, uri)
    assert (again.points, again.retired) == (0, 0)
    [back] = mirrored_runs(database)[left.key]
    assert (back["run_uuid"], back["sweep.member"]) == (before[left.key][0]["run_uuid"], "true")
    assert_mirrors(database, tmp_path, INDEX)


def test_a_launch_of_a_smaller_sweep_retires_what_it_no_longer_lists(tmp_path: Path, database: Path) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    sync(tmp_path, INDEX, sqlite_uri(database))
    shrunk = INDEX.model_copy(update={"runs": INDEX.runs[:-1]})
    mirror = Mirror(tmp_path, shrunk, sqlite_uri(database))
    mirror.start()
    assert mirror.stop(60).trouble is None
    assert_mirrors(database, tmp_path, shrunk)


def test_a_moved_storage_keeps_its_artifacts_with_it(
    tmp_path: Path, empty_database: bytes, report: StudyReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "mlflow.db").write_bytes(empty_database)
    train_sweep(old, INDEX, CONFIGS)
    sync(old, INDEX, default_tracking_uri(old))
    log_report(old, INDEX, default_tracking_uri(old), report)
    shutil.move(old, new)
    utils._artifact_repos_cache.clear()  # a process that starts after the move remembers no run's place
    (report.folder / "later.txt").write_text("after the move")
    sync(new, INDEX, default_tracking_uri(new), report=report)
    assert not old.exists()
    run = parent_of(new / "mlflow.db")
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(new)
    listed = MlflowClient(default_tracking_uri(new)).list_artifacts(run.info.run_id)
    assert {item.path for item in listed} == {"report.html", "plots", "later.txt"}


def test_a_move_leaves_the_experiments_of_others_where_they_are(tmp_path: Path, database: Path) -> None:
    client = MlflowClient(sqlite_uri(database))
    theirs = client.create_experiment("theirs", (tmp_path / "elsewhere").as_uri())
    sync(tmp_path, INDEX, sqlite_uri(database))
    mend_artifact_places(database, tmp_path / "another storage")
    mend_artifact_places(database, tmp_path)
    assert client.get_experiment(theirs).artifact_location == (tmp_path / "elsewhere").as_uri()
    ours = client.get_experiment_by_name("demo")
    assert ours is not None
    assert ours.artifact_location == (tmp_path / "mlflow-artifacts" / "demo").as_uri()


def test_where_tracking_is_off_nothing_is_sent_and_it_is_said_how_to_make_up_for_it(tmp_path: Path) -> None:
    assert check_tracking(OFF) is None
    mirror = Mirror(tmp_path, INDEX, OFF)
    mirror.start()
    report = mirror.stop(60)
    assert (report.points, len(report.behind)) == (0, len(INDEX.runs))
    assert "isoloss sync demo" in (report.trouble or "")
    for refusing in (lambda: sync(tmp_path, INDEX, OFF), lambda: serve_ui(OFF)):
        with pytest.raises(UserError, match="--tracking-uri"):
            refusing()
