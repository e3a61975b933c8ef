"""From a launched sweep to what a person reads, through the command: report, fit, and a sweep named by its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis import load_runs
from llama.records import DONE
from tests.integration.conftest import Launcher, read_index

KEYS = {
    "law",
    "objective",
    "delta",
    "counting",
    "n_runs",
    "params",
    "ci95",
    "objective_value",
    "exponents",
    "held_out",
    "excluded",
    "warnings",
}
WIDTHS = [16, 24, 32, 48]
TOKENS = [16_384, 32_768, 65_536, 131_072]


def fit_json(launcher: Launcher, runs: str) -> dict[str, Any]:
    done = launcher.run("fit", runs, "--json", "--bootstrap", "20")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document.keys() == KEYS
    assert document["params"].keys() == {"A", "B", "E", "alpha", "beta"} == document["ci95"].keys()
    assert document["exponents"].keys() == {"n_opt", "d_opt", "ci95"}
    assert document["held_out"].keys() == {"n", "mean_abs_rel_error", "max_abs_rel_error"}
    return document


@pytest.mark.slow
def test_a_sweep_is_launched_reported_and_fitted(launcher: Launcher, tmp_path: Path) -> None:
    small = launcher.with_changes(
        ladder={"widths": WIDTHS, "context_length": 32},
        budgets={"tokens": TOKENS},
        inference={"max_batch": 2, "prompt_tokens": 4, "output_tokens": 4, "repetitions": 5},
    )
    assert small.launch()["finished"] == len(WIDTHS) * len(TOKENS)

    reported = small.run("report", "tiny")
    assert reported.returncode == 0, reported.stderr
    folder = small.storage / "sweeps" / "tiny" / "report"
    assert "<svg" in (folder / "report.html").read_text() or "data:image" in (folder / "report.html").read_text()
    assert len(list(folder.glob("*.png"))) >= 3
    assert (folder / "answer.txt").read_text().strip() in reported.stdout
    assert (folder / "answer.txt").read_text().strip()
    assert "analysing" in reported.stdout
    assert "the report is in MLflow" in reported.stdout

    again = small.run("report", "tiny")
    assert again.returncode == 0, again.stderr
    assert "analysing" not in again.stdout
    assert (folder / "answer.txt").read_text().strip() in again.stdout

    fitted = fit_json(small, "tiny")
    assert fitted["n_runs"] + fitted["held_out"]["n"] + len(fitted["excluded"]) == len(WIDTHS) * len(TOKENS)
    table = tmp_path / "table.csv"
    frame = load_runs(small.storage / "sweeps" / "tiny").frame
    frame[["n_params", "n_tokens", "loss", "held_out", "group"]].to_csv(table, index=False)
    same = fit_json(small, str(table))
    assert (same["n_runs"], same["params"]) == (fitted["n_runs"], pytest.approx(fitted["params"], rel=1e-3))

    nowhere = small.run("report", "tiny", "--out", "/proc/nope")
    assert (nowhere.returncode, "/proc/nope" in nowhere.stderr) == (2, True)
    assert "Traceback" not in nowhere.stderr


def test_a_sweep_named_by_its_folder_uses_that_folders_storage(launcher: Launcher, tmp_path: Path) -> None:
    one = launcher.with_changes(ladder={"widths": [16], "context_length": 32}, budgets={"tokens": [16_384]})
    assert one.launch()["finished"] == 1
    runs = read_index(one.storage).runs
    before = {run.key: (one.storage / "runs" / run.key / DONE).exists() for run in runs}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "sweeps", "launch", str(one.storage / "sweeps" / "tiny"), "--json"]
    done = subprocess.run(command, cwd=elsewhere, env=one.environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["finished"], result["trained_tokens"]) == (1, 0)
    assert list(elsewhere.iterdir()) == []
    assert {run.key: (one.storage / "runs" / run.key / DONE).exists() for run in runs} == before
