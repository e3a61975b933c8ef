"""`serve_ui` as a person has it: a process that says its URL, shows every run, and ends on Ctrl-C."""

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.tracking import default_tracking_uri, sync
from tests.sweeps.tracking.browser import find_chromium, screenshot
from tests.sweeps.tracking.synthetic import plan_sweep, train_sweep

INDEX, CONFIGS = plan_sweep(widths=(16, 24), budgets=(1e10, 2e10))
SERVE = "import sys; from sweeps.tracking import serve_ui; serve_ui(sys.argv[1], port=int(sys.argv[2]))"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The serving process, its URL, and the URL of the comparison that it printed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train_sweep(tmp_path, INDEX, CONFIGS)
    uri = default_tracking_uri(tmp_path)
    sync(tmp_path, INDEX, uri)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-u", "-c", SERVE, uri, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    first, comparison = process.stdout.readline(), process.stdout.readline()
    assert f"http://127.0.0.1:{port}" in first
    yield process, f"http://127.0.0.1:{port}", comparison.split(": ", 1)[1].strip()
    process.send_signal(signal.SIGTERM)  # it ends its server with itself
    process.wait(30)


def test_it_serves_on_loopback_and_ctrl_c_leaves_nothing_behind(served: tuple[subprocess.Popen[str], str, str]) -> None:
    process, url, _ = served
    with urllib.request.urlopen(url, timeout=30) as page:
        assert "MLflow" in page.read().decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_the_comparison_draws_every_run(served: tuple[subprocess.Popen[str], str, str], tmp_path: Path) -> None:
    _, _, comparison = served
    text = screenshot(comparison, tmp_path / "ui.png")
    assert all(run.name in text for run in INDEX.runs)
    assert "train/loss" in text
    assert "Error" not in text
