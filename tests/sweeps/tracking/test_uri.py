import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from analysis.runs.mlflow_uri import sqlite_path
from llama.errors import UserError
from sweeps.tracking.uri import check_tracking, default_tracking_uri, sqlite_uri


class Guarded(BaseHTTPRequestHandler):
    """A tracking server that wants user `ada`, password `s:3cret`."""

    def do_GET(self) -> None:
        granted = self.headers.get("Authorization") == "Basic YWRhOnM6M2NyZXQ="
        self.send_response(200 if granted else 401)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def guarded_port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_argument_wins_over_environment_wins_over_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://one:1")
    assert default_tracking_uri(tmp_path) == "http://one:1"
    assert default_tracking_uri(tmp_path, "http://two:2") == "http://two:2"


def test_a_relative_storage_gives_an_absolute_uri(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert sqlite_path(default_tracking_uri(Path("out"))) == tmp_path / "out" / "mlflow.db"


@pytest.mark.parametrize("name", ["plain", "a b", "50%", "#1", "what?", "c++", "é"])
def test_any_folder_name_survives_the_uri(tmp_path: Path, name: str) -> None:
    assert sqlite_path(sqlite_uri(tmp_path / name / "mlflow.db")) == tmp_path / name / "mlflow.db"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("mlruns", "folder"),
        ("file:///data/mlruns", "folder"),
        ("http://", "no host"),
        ("http://host:notaport", "malformed"),
        ("ftp://host/x", "unknown scheme 'ftp'"),
        ("sqlite://", "no file"),
        ("sqlite:///:memory:", "no file"),
    ],
)
def test_what_can_never_work_is_refused_with_what_would(uri: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        check_tracking(uri)
    assert says in str(error.value)
    assert "sqlite:////absolute/path/mlflow.db" in str(error.value)


def test_a_fresh_sqlite_path_is_fine(tmp_path: Path) -> None:
    assert check_tracking(sqlite_uri(tmp_path / "not" / "yet" / "mlflow.db")) is None


def test_a_server_that_is_away_is_a_warning_without_credentials() -> None:
    warning = check_tracking(f"http://ada:hunter2@127.0.0.1:{closed_port()}")
    assert warning is not None
    assert "isoloss sync" in warning
    assert "hunter2" not in warning


def test_bad_credentials_are_named(guarded_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    warning = check_tracking(f"http://127.0.0.1:{guarded_port}")
    assert warning is not None
    assert "401" in warning
    assert "MLFLOW_TRACKING_PASSWORD" in warning


def test_credentials_go_along_from_the_environment_or_the_uri(
    guarded_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_tracking(f"http://ada:s%3A3cret@127.0.0.1:{guarded_port}") is None
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s:3cret")
    assert check_tracking(f"http://127.0.0.1:{guarded_port}") is None
