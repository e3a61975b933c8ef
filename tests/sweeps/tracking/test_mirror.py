"""The background uploader and `sync`, on a real SQLite store."""

import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from llama.errors import UserError
from sweeps.tracking import Mirror, TrackingError, log_parent_artifacts, sync
from sweeps.tracking.claim import Claim
from sweeps.tracking.store import Store
from sweeps.tracking.uri import default_tracking_uri, sqlite_uri
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
    for call in range(1, 10):  # each goes on where the one before died
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


def test_a_report_lands_on_the_parent_with_its_numbers(tmp_path: Path, database: Path) -> None:
    train_sweep(tmp_path, INDEX, CONFIGS)
    uri = sqlite_uri(database)
    report = tmp_path / "report"
    (report / "plots").mkdir(parents=True)
    (report / "report.html").write_text("<p>the answer</p>")
    (report / "plots" / "loss.csv").write_text("tokens,loss\n")
    sync(tmp_path, INDEX, uri)
    log_parent_artifacts(tmp_path, INDEX, uri, report, metrics={"fit/alpha": 0.34}, tags={"answer": "train longer"})
    sync(tmp_path, INDEX, uri, report_folder=report)
    [parent] = mirrored_runs(database)[""]
    client = MlflowClient(uri)
    run = client.get_run(parent["run_uuid"])
    assert (run.data.metrics["fit/alpha"], run.data.tags["answer"]) == (0.34, "train longer")
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"report.html", "plots"}
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(tmp_path)
    assert_mirrors(database, tmp_path, INDEX)
