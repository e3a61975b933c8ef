"""From a launched sweep to what a person reads, through the command: report, fit, and a sweep named by its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import load_runs
from analysis.decisions.search import cheapest
from analysis.laws import get_law
from analysis.page.report import write_report
from analysis.plots.style import format_number
from llama.records import DONE
from tests.analysis.plots.studies import make_study
from tests.integration.conftest import Launcher, read_index
from tests.sweeps.tracking.browser import find_chromium, screenshot

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
    done = launcher.run("fit", runs, "--json", "--bootstrap", "100")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document.keys() >= KEYS
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


#: Moves the demand's slider to its end, types an impossible utilisation and searches nothing; true once the page has followed.
MOVE = """(() => {
  const place = document.getElementById('decision');
  if (!place || !place.querySelector('.chart .main-svg')) return false;
  const slider = document.getElementById('decide-demand-slider');
  const share = document.getElementById('decide-trainUtilisation');
  if (slider.value !== slider.max) {
    place.dataset.before = place.querySelector('[data-field="own-n"]').textContent;
    slider.value = slider.max;
    slider.dispatchEvent(new Event('input'));
    share.value = '250';
    share.dispatchEvent(new Event('input'));
    return false;
  }
  return share.getAttribute('aria-invalid') === 'true'
    && place.querySelector('[data-field="own-n"]').textContent !== place.dataset.before;
})()"""


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_a_moved_slider_gives_the_analysis_s_own_answer_in_the_browser(tmp_path: Path) -> None:
    study = make_study()
    assert study.fit is not None
    assert study.lifetime is not None
    path = write_report(study, tmp_path)
    text = screenshot(path.as_uri(), tmp_path / "page.png", width=1200, height=1400, until=MOVE)
    law = get_law(study.fit.law)
    demand = study.lifetime.demand_tokens * 1e4
    n, d = cheapest(
        law, law.as_vector(study.fit.params), study.lifetime.costs, study.lifetime.target_loss, np.array(demand)
    )
    words = (
        f"At {format_number(demand, 'count')} tokens served and a loss of 2.750, the cheapest model to own has "
        f"{format_number(float(n), 'count')} parameters, trained on {format_number(float(d), 'count')} tokens"
    )
    assert words in text
    assert "where scripts are allowed" not in text
    assert (tmp_path / "page.png").stat().st_size > 20_000
