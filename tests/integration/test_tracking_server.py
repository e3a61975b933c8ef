"""The mirror against a real MLflow server that goes away and comes back."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from sweeps.tracking import Mirror, StudyReport, check_tracking, log_report, sync
from tests.integration.tracking_server import TrackingServer
from tests.sweeps.tracking.reading import assert_mirrors, mirrored_rows, mirrored_runs
from tests.sweeps.tracking.synthetic import plan_sweep, train, train_sweep

INDEX, CONFIGS = plan_sweep(widths=(16, 24), budgets=(1e10, 2e10))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TrackingServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = TrackingServer(folder)
    yield server
    server.down()


def wait_for_runs(server: TrackingServer, count: int) -> None:
    """Until the server holds points of `count` runs."""
    deadline = time.monotonic() + 60
    while len(mirrored_rows(server.database)) < count:
        assert time.monotonic() < deadline, "the mirror does not follow"
        time.sleep(0.1)


def test_a_server_down_throughout_then_sync(tmp_path: Path, server: TrackingServer) -> None:
    warning = check_tracking(server.uri)
    assert warning is not None
    mirror = Mirror(tmp_path, INDEX, server.uri, poll_seconds=0.1)
    mirror.start()
    train_sweep(tmp_path, INDEX, CONFIGS)
    report = mirror.stop(60)
    assert report.trouble is not None
    assert "connection refused" in report.trouble
    server.up()
    assert check_tracking(server.uri) is None
    for _ in range(2):
        sync(tmp_path, INDEX, server.uri)
        assert_mirrors(server.database, tmp_path, INDEX)
    report_folder = tmp_path / "report"
    report_folder.mkdir()
    (report_folder / "report.html").write_text("<p>the answer</p>")
    study = StudyReport(folder=report_folder, digest="d", unix_ms=1, metrics={}, headline="the answer")
    assert log_report(tmp_path, INDEX, server.uri, study)
    [parent] = mirrored_runs(server.database)[""]
    assert [item.path for item in MlflowClient(server.uri).list_artifacts(parent["run_uuid"])] == ["report.html"]


def test_a_server_that_dies_in_between_costs_no_point(
    tmp_path: Path, server: TrackingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.up()
    mirror = Mirror(tmp_path, INDEX, server.uri, poll_seconds=0.1)
    mirror.start()
    train(tmp_path, CONFIGS[INDEX.runs[1].key])
    wait_for_runs(server, 1)
    server.down()
    train_sweep(tmp_path, INDEX, CONFIGS)
    server.up()
    report = mirror.stop(120)
    assert (report.trouble, report.behind) == (None, ())
    assert capsys.readouterr().out == "", "MLflow prints into the launcher's live view"
    assert_mirrors(server.database, tmp_path, INDEX)
