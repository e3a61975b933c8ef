"""What a launch promises, tried through the command: kills, second launches, two launchers, bad luck."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import yaml

from llama.lease import current_owner
from llama.records import CONFIG, DONE, read_done
from tests.integration.conftest import SWEEP, Launcher, read_index, results


def finished_times(storage: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in (storage / "runs").glob(f"*/{DONE}")}


def unfinished_runs(storage: Path) -> set[str]:
    """Keys of runs that have begun and are not done: what a kill now would hit in training."""
    begun = {path.parent.name for path in (storage / "runs").glob(f"*/{CONFIG}")}
    if not begun:
        return set()
    branches = {run.key for run in read_index(storage).runs if not run.is_trunk}
    trunks = {run.key for run in read_index(storage).runs if run.is_trunk}
    done = finished_times(storage).keys()
    # A trunk has no DONE: it trains until the last of its branches has begun.
    return begun & (branches - done) | (begun & trunks if not branches <= begun else set())


def attempts(storage: Path) -> int:
    """How often a worker has begun or gone on with a run: each time takes the next numbered lease."""
    return len(list((storage / "runs").glob("*/lease/0*.json")))


def kill_in_training(launcher: Launcher, delay_seconds: float) -> set[str]:
    """Launch, wait for a run that trains, and `kill -9` the launcher `delay_seconds` later; the unfinished runs at the kill."""
    process = launcher.start()
    try:
        deadline = time.monotonic() + 60
        before = attempts(launcher.storage)
        while process.poll() is None and time.monotonic() < deadline and attempts(launcher.storage) == before:
            time.sleep(0.01)
        time.sleep(delay_seconds)
        alive = process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return unfinished_runs(launcher.storage) if alive else set()


@pytest.mark.slow  # its short form kills a worker first: tests/faults/test_kills.py
def test_a_killed_launcher_goes_on_and_ends_bit_identical(launcher: Launcher, tmp_path: Path) -> None:
    launcher = launcher.with_changes(budgets={"tokens": [131_072, 262_144, 524_288]})
    undisturbed = launcher.launch(storage=tmp_path / "undisturbed")
    assert undisturbed["finished"] == 6
    moments = random.Random(7)
    hits: list[set[str]] = []
    for _ in range(4):
        before = finished_times(launcher.storage)
        hits.append(kill_in_training(launcher, moments.uniform(0.0, 0.4)))
        after = finished_times(launcher.storage)
        assert {key: after[key] for key in before} == before, "a finished run was written again"
    assert sum(bool(hit) for hit in hits) >= 3, hits
    last = launcher.launch()
    assert last["finished"] == 6
    assert results(launcher.storage) == results(tmp_path / "undisturbed")


def test_a_second_launch_trains_nothing(launcher: Launcher) -> None:
    first = launcher.launch()
    assert (first["finished"], first["failed"], first["diverged"]) == (6, {}, [])
    before = finished_times(launcher.storage)
    assert launcher.launch()["trained_tokens"] == 0
    assert finished_times(launcher.storage) == before
    # The first launch's plan, which knew no speed, beside what it did; drawn from the attempts that it noted.
    picture = launcher.storage / "real.svg"
    compared = launcher.run("plan", str(launcher.yaml_path), "--compare", "--json", "--gantt", str(picture))
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert (found["finished_runs"], found["planned_after_runs"], found["seconds_predicted"]) == (6, 0, None)
    assert found["flops_real"] == found["flops_predicted"]
    assert found["seconds_real"] > 0
    assert found["wall_seconds_real"] > 0
    assert all(size["tokens_per_second_today"] is not None for size in found["sizes"])
    assert "as it happened" in picture.read_text()


def test_an_enlarged_sweep_runs_only_what_is_new(launcher: Launcher) -> None:
    launcher.launch()
    before = finished_times(launcher.storage)
    larger = launcher.with_changes(budgets={"tokens": [65_536, 98_304, 131_072, 262_144]})
    result = larger.launch()
    assert result["finished"] == 8
    assert {key: when for key, when in finished_times(launcher.storage).items() if key in before} == before
    # Two new forks between existing ones, and two cooldowns of a fifth.
    assert result["trained_tokens"] < 2 * 98_304


def test_of_two_launchers_the_second_says_so(launcher: Launcher) -> None:
    first = launcher.start()
    try:
        folder = launcher.storage / "sweeps" / "tiny"
        while current_owner(folder) is None:
            assert first.poll() is None
            time.sleep(0.05)
        second = launcher.run("launch", str(launcher.yaml_path))
        assert second.returncode == 2
        assert f"process {first.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        assert first.wait(timeout=120) == 0
    finally:
        first.kill()
        first.wait()
    assert len(results(launcher.storage)) == 6


def test_ctrl_c_leaves_everything_resumable_and_says_so(launcher: Launcher) -> None:
    process = launcher.start()
    try:
        while not list((launcher.storage / "runs").glob("*/config.json")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "the same command goes on" in output
    assert "Traceback" not in output
    assert launcher.launch()["finished"] == 6


def test_a_diverged_run_is_shown_with_its_reason_and_does_not_stop_the_rest(launcher: Launcher) -> None:
    recipe = {"name": "width_and_horizon", "schedule": "cosine", "lr_multipliers": [1, 1e12], "warmup_tokens": 4096}
    hot = launcher.with_changes(recipe=recipe, ladder={"widths": [16], "context_length": 32})
    result = hot.launch()
    assert result["finished"] == 3
    assert len(result["diverged"]) == 3
    status = json.loads(hot.run("status", "tiny", "--json").stdout)
    notes = [run["note"] for run in status["runs"] if run["state"] == "diverged"]
    assert len(notes) == 3
    assert all("step" in note for note in notes)
    assert hot.launch()["trained_tokens"] == 0


def test_a_sweep_trains_with_its_tracking_server_away_and_sync_makes_up_for_it(
    launcher: Launcher, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    from llama.records import read_journal

    result = launcher.launch("--tracking-uri", "http://127.0.0.1:9")
    assert result["finished"] == 6
    assert "isoloss sync" in result["mirror_trouble"]
    uri = f"sqlite:///{tmp_path / 'later.db'}"
    for _ in range(2):  # the second time changes nothing
        synced = launcher.run("sync", "tiny", "--tracking-uri", uri)
        assert synced.returncode == 0, synced.stderr
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    by_key = {run.data.tags.get("run.key"): run for run in client.search_runs([experiment.experiment_id])}
    for run in read_index(launcher.storage).runs:
        folder = launcher.storage / "runs" / run.key
        journal: dict[str, list[tuple[int, int, float]]] = {}
        for point in read_journal(folder):
            for name, value in point.metrics.items():
                if value is not None:
                    journal.setdefault(name, []).append((point.tokens, point.unix_ms, value))
        assert journal
        for name, rows in journal.items():
            history = client.get_metric_history(by_key[run.key].info.run_id, name)
            assert sorted((m.step, m.timestamp, m.value) for m in history) == sorted(rows), (run.name, name)
        if not run.is_trunk:
            assert read_done(folder) is not None
            assert by_key[run.key].info.status == "FINISHED"


def test_bad_input_is_one_clear_message(launcher: Launcher, tmp_path: Path) -> None:
    typo = launcher.with_changes(budgetz={})
    assert "budgetz" in typo.run("launch", str(typo.yaml_path)).stderr

    nowhere = yaml.safe_load(launcher.yaml_path.read_text())
    nowhere["corpus"]["domains"]["plain"]["files"] = ["nowhere/*.txt"]
    path = tmp_path / "nowhere.yaml"
    path.write_text(yaml.safe_dump(nowhere))
    missing = launcher.run("plan", str(path))
    assert (missing.returncode, "nowhere" in missing.stderr) == (2, True)

    (tmp_path / "file").write_text("")
    blocked = launcher.run("launch", str(launcher.yaml_path), storage=tmp_path / "file")
    assert (blocked.returncode, "is a file" in blocked.stderr) == (2, True)

    absent = launcher.run("launch", str(launcher.yaml_path), "--address", "127.0.0.1:1")
    assert (absent.returncode, "127.0.0.1:1" in absent.stderr) == (2, True)

    for one in (missing, blocked, absent):
        assert "Traceback" not in one.stderr


def test_tokens_beyond_four_epochs_are_warned_of_by_domain(launcher: Launcher) -> None:
    long = launcher.with_changes(budgets={"tokens": [65_536, 2_000_000]}, recipe=SWEEP["recipe"])
    planned = json.loads(long.run("plan", str(long.yaml_path), "--json").stdout)
    [warning] = [w["message"] for w in planned["warnings"] if w["code"] == "epochs" and "domain plain" in w["message"]]
    assert "times" in warning
