import json
import re
import socket
from pathlib import Path

import pytest

from llama.errors import UserError
from sweeps.tracking.ui import serve_ui
from sweeps.tracking.uri import sqlite_uri
from sweeps.tracking.view import experiment_tags, run_color


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


def test_a_tracking_server_is_only_pointed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.tracking.ui.check_tracking", lambda uri: None)
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
