"""`isoloss recommend` and `isoloss compare`: their documents, their answers on a known law, and bad questions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
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


def test_a_better_recipe_is_worth_its_compute(isoloss: Isoloss, csv: Path, tmp_path: Path) -> None:
    better = tmp_path / "better.csv"
    made_runs(seed=1, compute=2.0).to_csv(better, index=False)
    document = isoloss("compare", csv, better, "--bootstrap", 200, "--json").json
    lo, hi = document["multiplier"]["ci95"]
    assert lo < 2.0 < hi
    assert isoloss("compare", csv, better, "--bootstrap", 100).out


def test_one_file_is_compared_with_itself_by_conditions(isoloss: Isoloss, tmp_path: Path) -> None:
    both = pd.concat([made_runs().assign(recipe="old"), made_runs(seed=1, compute=1.5).assign(recipe="new")])
    path = tmp_path / "both.csv"
    both.assign(run_id=range(len(both))).to_csv(path, index=False)
    halves = ["--where-a", "recipe=old", "--where-b", "recipe=new"]
    assert isoloss("compare", path, path, *halves, "--bootstrap", 100).code == 0
    assert isoloss("compare", path, path, "--where-a", "recipe=older", "--bootstrap", 100).code == 2
