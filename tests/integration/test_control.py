"""A sweep and single runs paused, resumed and cancelled while a real launcher is at work, through the command."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llama.lease import current_owner
from llama.records import CONFIG, read_heartbeat
from tests.cluster.processes import wait_for
from tests.integration.conftest import Launcher, read_index, results

#: The trunk's last segment is long enough to be told something in, on a fast machine too.
LONG = {"tokens": [65_536, 131_072, 1_048_576]}


def statuses(launcher: Launcher) -> dict[str, Any]:
    document = json.loads(launcher.run("status", "tiny", "--json").stdout)
    return {run["name"]: run for run in document["runs"]}


def trains_for_long(launcher: Launcher) -> bool:
    """Whether a worker is in the trunk's last segment."""
    folders = [path.parent for path in (launcher.storage / "runs").glob(f"*/{CONFIG}")]
    beats = [read_heartbeat(folder) for folder in folders if current_owner(folder) is not None]
    return any(beat is not None and beat.tokens > LONG["tokens"][1] for beat in beats)


def nobody_trains(launcher: Launcher) -> bool:
    return all(current_owner(path.parent) is None for path in (launcher.storage / "runs").glob(f"*/{CONFIG}"))


@contextmanager
def started(launcher: Launcher) -> Iterator[subprocess.Popen[str]]:
    """A launch under way, which the test's end ends."""
    process = launcher.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finish(process: subprocess.Popen[str], seconds: float = 200) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow  # two launches; the states are walked in tests/cluster/test_supervisor.py
def test_a_paused_sweep_waits_in_this_launch_and_the_next_and_ends_bit_identical(
    launcher: Launcher, tmp_path: Path
) -> None:
    launcher = launcher.with_changes(budgets=LONG, ladder={"widths": [16], "context_length": 32})
    launcher.launch(storage=tmp_path / "undisturbed")
    with started(launcher) as process:
        wait_for(lambda: process.poll() is not None or trains_for_long(launcher), 200)
        assert "heeds that within seconds" in launcher.run("pause", "tiny").stdout
        wait_for(lambda: nobody_trains(launcher), 200)
        time.sleep(1.0)
        assert nobody_trains(launcher)
        assert process.poll() is None
        assert {run["state"] for run in statuses(launcher).values()} - {"finished"} == {"paused"}
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 138
        assert "has left at a checkpoint: paused" in output
        assert "tried again" not in output
    with started(launcher) as later:
        assert later.stdout is not None
        while "tiny is paused" not in later.stdout.readline():
            assert later.poll() is None
        launcher.run("resume", "tiny")
        assert "tiny is resumed" in finish(later)
    assert results(launcher.storage) == results(tmp_path / "undisturbed")


@pytest.mark.slow  # as above
def test_a_cancelled_run_stays_so_until_it_is_resumed(launcher: Launcher) -> None:
    launcher = launcher.with_changes(budgets=LONG, ladder={"widths": [16], "context_length": 32})
    with started(launcher) as process:
        wait_for(lambda: process.poll() is not None or trains_for_long(launcher), 200)
        launcher.run("pause", "tiny")
        wait_for(lambda: nobody_trains(launcher), 200)
        last = next(run for run in reversed(read_index(launcher.storage).runs) if not run.is_trunk).name
        assert f"cancelled: {last}" in launcher.run("cancel", "tiny", "--run", last).stdout
        launcher.run("resume", "tiny")
        assert f"cancelled: {last} (isoloss resume puts them back)" in finish(process)
    assert statuses(launcher)[last]["state"] == "cancelled"
    launcher.run("cancel", "tiny")
    again = launcher.launch()
    assert (again["finished"], again["cancelled"], again["trained_tokens"]) == (2, [last], 0)
    launcher.run("resume", "tiny")
    launcher.run("resume", "tiny", "--run", last)
    assert launcher.launch()["finished"] == 3
