import json
import re
import socket
import sqlite3
from pathlib import Path

import pytest

from llama.errors import UserError
from sweeps.tracking.ui import serve_ui, telling_line
from sweeps.tracking.uri import sqlite_uri
from sweeps.tracking.view import experiment_tags, run_color


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_in_use_is_named_with_a_free_one(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} .*in use.*--port \d+"):
            serve_ui(sqlite_uri(tmp_path / "mlflow.db"), port=port)


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(UserError, match=r"192\.0\.2\.1 is not an address of this machine"):
        serve_ui(sqlite_uri(tmp_path / "mlflow.db"), host="192.0.2.1")


def test_no_store_yet_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="launch a sweep first"):
        serve_ui(sqlite_uri(tmp_path / "mlflow.db"))


def test_a_damaged_store_ends_in_one_line_that_says_what_to_do(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not SQLite" * 1000)
    with pytest.raises(UserError) as error:
        serve_ui(sqlite_uri(tmp_path / "mlflow.db"), port=free_port, say=pytest.fail)
    text = str(error.value)
    assert "file is not a database" in text
    assert f"{tmp_path / 'mlflow.db'} is damaged, move it away" in text
    assert "isoloss sync" in text
    assert "\n" not in text


def test_a_store_whose_tables_are_damaged_is_told_too(tmp_path: Path, database: Path, free_port: int) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("drop table experiments")
    with pytest.raises(UserError, match=r"sqlite3.*experiments.*move it away"):
        serve_ui(sqlite_uri(database), port=free_port, say=lambda line: None)


def test_the_telling_line_is_the_exception_and_not_the_advice_below_it() -> None:
    log = "INFO: start\nTraceback (most recent call last):\n  File x\nsqlalchemy.exc.DatabaseError: bad\n(Background: y)\n"
    assert telling_line(log) == "sqlalchemy.exc.DatabaseError: bad"
    assert telling_line("INFO: start\nkilled\n\n") == "killed"
    assert telling_line("") == ""


def test_a_tracking_server_is_only_pointed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.tracking.ui.require_tracking", lambda uri: None)
    said: list[str] = []
    serve_ui("https://ada:hunter2@mlflow.example", say=said.append)
    assert said == ["MLflow's server has its own UI: open https://***@mlflow.example"]


def test_the_shared_view_fits_into_an_experiment_tag() -> None:
    [state] = [json.loads(value) for name, value in experiment_tags().items() if "sharedViewState" in name]
    assert all(len(value) < 5000 for value in experiment_tags().values())
    assert state["compareRunCharts"][0]["metricKey"] == "train/loss"
    assert state["compareRunCharts"][0]["xAxisKey"] == "step"


def test_sizes_a_factor_of_two_apart_have_their_own_colours() -> None:
    colours = [run_color(20_000 * 2**power) for power in range(5)]
    assert len(set(colours)) == 5
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)
