"""`isoloss fit`: its document, every law and approach, filters, frozen forecasts, and what it says to bad input."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.laws import law_names
from tests.sweeps.commands.conftest import Isoloss, made_runs

CONTRACT = [
    *("law", "objective", "delta", "counting", "n_runs", "params", "ci95", "objective_value"),
    *("exponents", "held_out", "excluded", "warnings"),
]


def test_the_document_begins_as_the_contract_says(isoloss: Isoloss, csv: Path) -> None:
    ran = isoloss("fit", csv, "--bootstrap", 100, "--json")
    assert ran.code == 0
    assert list(ran.json)[: len(CONTRACT)] == CONTRACT
    assert ran.json["params"]["E"] == pytest.approx(1.8172, abs=0.1)
    lo, hi = ran.json["ci95"]["alpha"]
    assert lo < 0.3478 < hi


@pytest.mark.parametrize("law", [law for law in law_names() if law != "data_constrained"])
def test_every_law_fits_a_plain_table(isoloss: Isoloss, csv: Path, law: str) -> None:
    ran = isoloss("fit", csv, "--law", law, "--bootstrap", 0, "--json")
    assert ran.code == 0
    assert ran.json["law"] == law
    assert ran.json["ci95"] is None


def test_a_law_of_repetition_asks_for_unique_tokens(isoloss: Isoloss, csv: Path) -> None:
    ran = isoloss("fit", csv, "--law", "data_constrained")
    assert ran.code == 2
    assert "unique" in ran.err


@pytest.mark.parametrize(("approach", "name"), [("1", "envelope"), ("3", "chinchilla")])
def test_one_approach_is_one_document(isoloss: Isoloss, csv: Path, approach: str, name: str) -> None:
    ran = isoloss("fit", csv, "--approach", approach, "--bootstrap", 100, "--json")
    assert ran.code == 0
    assert ran.json["law"] == name
    assert list(ran.json)[: len(CONTRACT)] == CONTRACT


def test_the_approaches_stand_side_by_side(isoloss: Isoloss, csv: Path) -> None:
    ran = isoloss("fit", csv, "--approach", "all", "--compute", "1e22", "--bootstrap", 100)
    assert ran.code == 0
    assert "At 1e22 FLOPs" in ran.out
    for words in ("Approach 1", "Approach 2", "no run declares a compute budget", "Approach 3"):
        assert words in ran.out


def test_conditions_choose_runs_by_any_column_of_the_file(isoloss: Isoloss, csv: Path) -> None:
    assert isoloss("fit", csv, "--where", "tokens_per_param<=40", "--bootstrap", 0, "--json").json["n_runs"] == 32
    refused = isoloss("fit", csv, "--where", "tokens_per_parm<=40")
    assert refused.code == 2
    assert "tokens_per_param" in refused.err


def test_columns_have_the_names_that_the_file_gives_them(isoloss: Isoloss, tmp_path: Path) -> None:
    path = tmp_path / "named.csv"
    made_runs().rename(columns={"n_params": "N", "n_tokens": "D", "loss": "val"}).to_csv(path, index=False)
    ran = isoloss(
        "fit", path, "--n-column", "N", "--map", "n_tokens=D", "--loss-column", "val", "--bootstrap", 0, "--json"
    )
    assert ran.code == 0
    assert ran.json["n_runs"] == 48
    assert isoloss("fit", path, "--map", "n_params", "--bootstrap", 0).code == 2
    assert isoloss("fit", path, "--map", "n_params=D", "--n-column", "N").code == 2


def test_an_excluded_run_is_used_when_it_is_kept(isoloss: Isoloss, tmp_path: Path) -> None:
    runs = made_runs()
    runs["status"] = ["diverged" if i == 3 else "finished" for i in range(len(runs))]
    path = tmp_path / "runs.csv"
    runs.to_csv(path, index=False)
    left_out = isoloss("fit", path, "--bootstrap", 0, "--json").json
    assert left_out["n_runs"] == 47
    assert left_out["excluded"][0]["row"] == 4
    assert isoloss("fit", path, "--keep", "run-3", "--bootstrap", 0, "--json").json["n_runs"] == 48
    assert isoloss("fit", path, "--keep", "run-99", "--bootstrap", 0).code == 2


def test_forecasts_are_frozen_before_the_runs_and_held_against_them_after(isoloss: Isoloss, tmp_path: Path) -> None:
    runs = made_runs()
    small, path, file = runs[runs["n_params"] < 1e9], tmp_path / "runs.csv", tmp_path / "frozen.json"
    small.to_csv(path, index=False)
    big = runs[runs["n_params"] >= 1e9]
    cells = [f"--forecast={n:.17g},{d:.17g}" for n, d in zip(big["n_params"], big["n_tokens"], strict=True)]
    assert isoloss("fit", path, "--freeze", file, *cells).code == 0
    assert isoloss("fit", path, "--freeze", file).code == 2  # never overwritten

    runs.to_csv(path, index=False)
    checked = isoloss("fit", path, "--against", file, "--json").json
    assert checked["n"] == len(big)
    assert checked["max_abs_rel_error"] < 0.05
    assert checked["coverage"] > 0.8

    file.write_text(file.read_text().replace('"n_params": ', '"n_params":  ', 1).replace("1.8", "1.9", 1))
    changed = isoloss("fit", path, "--against", file)
    assert changed.code == 2
    assert "changed since it was frozen" in changed.err


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("loss", 2.5, "nothing to fit"),
        ("n_params", 1e8, "model size"),
        ("loss", -1.0, "negative"),
        ("loss", "low", "not a number"),
    ],
)
def test_a_table_without_an_answer_gets_one_clear_message(
    isoloss: Isoloss, tmp_path: Path, column: str, value: object, words: str
) -> None:
    runs = made_runs().astype({column: object})
    runs[column] = value
    path = tmp_path / "runs.csv"
    runs.to_csv(path, index=False)
    ran = isoloss("fit", path)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("isoloss: ")
    assert words in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--objective", "hubber"], "huber_log"),
        (["--law", "chinchila"], "chinchilla"),
        (["--counting", "params"], "n_params"),
        (["--delta", "0"], "delta"),
        (["--bootstrap", "-1"], "bootstrap"),
        (["--resampling", "bayes"], "parametric"),
        (["--weights", "heavy"], "noise"),
        (["--forecast", "7e9,1e12"], "--freeze"),
        (["--freeze", "x.json", "--forecast", "7e9"], "7e9,2e12"),
        (["--against", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_bad_option_is_named(isoloss: Isoloss, csv: Path, options: list[str], words: str) -> None:
    ran = isoloss("fit", csv, *options)
    assert ran.code == 2
    assert words in ran.err


def test_missing_columns_offer_the_nearest(isoloss: Isoloss, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    made_runs().rename(columns={"loss": "val_loss"}).to_csv(path, index=False)
    ran = isoloss("fit", path)
    assert ran.code == 2
    assert "val_loss" in ran.err
    assert "--loss-column" in ran.err


def test_three_rows_and_an_empty_file_are_refused(isoloss: Isoloss, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    made_runs().head(3).to_csv(path, index=False)
    assert isoloss("fit", path).code == 2
    pd.DataFrame(columns=["n_params", "n_tokens", "loss"]).to_csv(path, index=False)
    assert isoloss("fit", path).code == 2
    assert isoloss("fit", tmp_path / "nowhere.csv").code == 2


def test_a_law_is_told_in_another_count_with_the_error_of_that(isoloss: Isoloss, tmp_path: Path) -> None:
    runs = made_runs()
    runs["n_params_non_embedding"] = runs["n_params"] - 2e7 * (runs["n_params"] / 3e7) ** 0.5
    path = tmp_path / "runs.csv"
    runs.to_csv(path, index=False)
    told = isoloss("fit", path, "--convert-to", "n_params_non_embedding", "--bootstrap", 0, "--json").json
    assert told["converted"]["exponents"]["n_opt"] > told["exponents"]["n_opt"]
    assert isoloss("fit", path, "--convert-to", "n_params_non_embedding", "--bootstrap", 0).code == 0
    assert isoloss("fit", path, "--convert-to", "n_params_matmul", "--bootstrap", 0).code == 2
