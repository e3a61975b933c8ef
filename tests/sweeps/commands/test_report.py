"""`isoloss report`: it takes what recommend takes, and refuses what can't be met. Pictures are stood in for but in one test."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.fitting.options import DEFAULTS
from analysis.page import report as page
from sweeps.commands.compare import compare
from sweeps.commands.decision import decision_options
from sweeps.commands.fit import fit
from sweeps.commands.options import fit_options, runs_query
from sweeps.commands.recommend import recommend
from sweeps.commands.report import report
from tests.sweeps.commands.conftest import Isoloss


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without its pictures, which take seconds."""
    monkeypatch.setattr(page, "save_pictures", lambda study, folder: [])
    monkeypatch.setattr(page, "make_pictures", lambda study: [])


@pytest.mark.parametrize("command", [fit, recommend, compare, report])
def test_no_command_drifts_from_the_options_that_are_shared(command: Any) -> None:
    """The same names and defaults, and the library's defaults at that."""
    own = inspect.signature(command).parameters
    groups: list[Callable[..., Any]] = [
        runs_query,
        fit_options,
        *([decision_options] if command in (recommend, report) else []),
    ]
    for group in groups:
        for name, shared in inspect.signature(group).parameters.items():
            assert own[name].default == shared.default
    assert {name: own[name].default for name in DEFAULTS} == DEFAULTS


@pytest.mark.usefixtures("plain")
def test_what_was_asked_is_what_the_study_answers(isoloss: Isoloss, csv: Path, tmp_path: Path) -> None:
    asked = ["--compute", "1e21", "--demand", "1e12", "--largest-size", "1e9", "--size", "5e8", "--size", "1e9"]
    fitting = ["--objective", "lsq_log", "--bootstrap", "100", "--seed", "3", "--drop-outliers"]
    ran = isoloss("report", csv, "--out", tmp_path / "out", *asked, *fitting, "--json")
    assert ran.code == 0, ran.err
    advice = ran.json["recommendation"]
    assert advice["question"]["value"] == 1e21
    assert advice["question"]["demand_tokens"] == 1e12
    assert advice["lifetime_optimal"]["n_params"] <= 1e9 * (1 + 1e-9)
    assert advice["break_even"]
    assert ran.json["fit"]["objective"] == "lsq_log"
    assert ran.json["fit"]["resampling"]["seed"] == 3
    alone = isoloss("recommend", csv, *asked, *fitting, "--json").json
    assert alone["lifetime_optimal"] == advice["lifetime_optimal"]
    assert "report: " in ran.err


@pytest.mark.usefixtures("plain")
def test_dollars_are_counted_by_the_named_prices(isoloss: Isoloss, csv: Path, tmp_path: Path) -> None:
    named = ["--price-per-hour", 2, "--peak-flops", 9.9e14, "--train-utilisation", 0.4, "--prefill-utilisation", 0.5]
    served = ["--demand", 1e12, "--prompt-share", 0.8, "--decode-utilisation", 0.05, "--bootstrap", 0]
    ran = isoloss("report", csv, "--out", tmp_path / "out", *named, *served, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["recommendation"]["costs"]["unit"] == "USD"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--law", "nope"], "chinchilla"),
        (["--objective", "nope"], "huber_log"),
        (["--bootstrap", "-5"], "bootstrap"),
        (["--bootstrap", "3"], "--bootstrap"),
        (["--seed", "-1"], "seed"),
        (["--demand", "-5"], "--demand"),
        (["--demand", "nan"], "--demand"),
        (["--prompt-share", "3"], "--prompt-share"),
        (["--target-loss", "1.0", "--bootstrap", "0"], "--target-loss"),
        (["--price-per-hour", "2", "--demand", "1e11", "--prompt-share", "0.8", "--bootstrap", "0"], "--peak-flops"),
        (["--compute", "1e21", "--budget", "1e21"], "--budget"),
        (["--largest-size", "1e7", "--target-loss", "2.2", "--bootstrap", "0"], "--largest-size"),
    ],
)
def test_what_can_not_be_met_is_refused(
    isoloss: Isoloss, csv: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    ran = isoloss("report", csv, "--out", tmp_path / "out", *options)
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "out" / "report.html").exists()


def test_pictures_of_an_earlier_question_do_not_stay(isoloss: Isoloss, csv: Path, tmp_path: Path) -> None:
    """Of pictures that these runs can't give nothing is left, and files that no report writes are not touched."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("isoflop-bowls.png", "isoflop-bowls.csv", "my-notes.csv"):
        (out / name).write_text("older")
    assert isoloss("report", csv, "--out", out, "--bootstrap", 0).code == 0
    assert not list(out.glob("isoflop-bowls.*"))
    assert (out / "my-notes.csv").read_text() == "older"
    assert list(out.glob("*.png"))
