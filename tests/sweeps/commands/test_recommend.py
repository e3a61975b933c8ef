"""`isoloss recommend`: its document, its answer on a known law, and bad questions."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.laws.chinchilla import Chinchilla
from tests.analysis.tables import BESIROGLU
from tests.sweeps.commands.conftest import Isoloss, made_runs

KEYS = [
    *("question", "law", "costs", "training_optimal", "lifetime_optimal", "break_even", "uncertainty"),
    *("outside_fitted_range", "warnings"),
]


def test_the_document_has_the_contracts_keys_and_the_laws_answer(isoloss: Isoloss, csv: Path) -> None:
    ran = isoloss("recommend", csv, "--compute", 1e21, "--demand", 1e12, "--bootstrap", 100, "--json")
    assert ran.code == 0
    assert [key for key in ran.json if key in KEYS] == KEYS
    law = Chinchilla()
    n_params, n_tokens = law.compute_optimum(law.as_vector(BESIROGLU), 1e21)
    training, lifetime = ran.json["training_optimal"], ran.json["lifetime_optimal"]
    assert training["n_params"] == pytest.approx(float(n_params), rel=0.15)
    assert training["tokens"] == pytest.approx(float(n_tokens), rel=0.15)
    assert lifetime["n_params"] < training["n_params"]
    assert lifetime["tokens"] > training["tokens"]
    lo, hi = lifetime["within_1pct"]
    assert lo < lifetime["n_params"] < hi
    assert set(ran.json["uncertainty"]) >= {"sampling", "seed", "objective", "outliers", "law", "counting"}


def test_the_answer_stands_first(isoloss: Isoloss, csv: Path) -> None:
    ran = isoloss("recommend", csv, "--target-loss", 2.6, "--demand", 1e12, "--bootstrap", 100)
    assert ran.code == 0
    assert "train" in ran.out.splitlines()[0]
    assert "parameters" in ran.out.splitlines()[0]


def test_dollars_need_prices_and_utilisations(isoloss: Isoloss, csv: Path) -> None:
    named = ["--price-per-hour", 2, "--peak-flops", 9.9e14, "--train-utilisation", 0.4]
    ran = isoloss("recommend", csv, "--budget", 1e6, "--demand", 1e12, "--bootstrap", 100, *named)
    assert ran.code == 2
    assert "--prompt-share" in ran.err
    served = ["--prompt-share", 0.8, "--prefill-utilisation", 0.5, "--decode-utilisation", 0.05]
    ran = isoloss("recommend", csv, "--budget", 1e6, "--demand", 1e12, "--bootstrap", 100, *named, *served, "--json")
    assert ran.code == 0
    assert ran.json["question"]["unit"] == "USD"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--compute"),
        (["--compute", "1e21", "--target-loss", "2.5"], "--target-loss"),
        (["--compute", "0"], "--compute"),
        (["--compute", "inf"], "--compute"),
        (["--compute", "1e21", "--demand", "-1"], "--demand"),
        (["--target-loss", "1.0"], "limit"),
        (["--compute", "1e21", "--demand", "1e12", "--prompt-share", "1.5"], "--prompt-share"),
        (["--compute", "1e21", "--decode-utilisation", "2"], "--decode-utilisation"),
        (["--compute", "1e21", "--family", "seven"], "--family"),
        (["--target-loss", "2.2", "--demand", "1e12", "--largest-size", "1e7"], "--largest-size"),
        (["--compute", "1e21", "--memory-bytes", "8e10"], "--context-tokens"),
    ],
)
def test_a_bad_question_is_named(isoloss: Isoloss, csv: Path, options: list[str], words: str) -> None:
    ran = isoloss("recommend", csv, "--bootstrap", 100, *options)
    assert ran.code == 2
    assert ran.out == ""
    assert words in ran.err


def test_runs_that_were_left_out_are_told(isoloss: Isoloss, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    made_runs().assign(status=["diverged" if i == 3 else "finished" for i in range(48)]).to_csv(path, index=False)
    assert "left out: run-3: diverged" in isoloss("recommend", path, "--compute", 1e21, "--bootstrap", 0).out
