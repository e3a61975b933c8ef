"""`isoloss fit`: its document, every law and approach, filters, frozen forecasts, and what it says to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.laws import law_names
from analysis.laws.chinchilla import Chinchilla
from tests.analysis.tables import BESIROGLU, predict
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
        (["--bootstrap", "3"], "--bootstrap"),
        (["--seed", "-1"], "seed"),
        (["--compute", "1e21"], "--approach"),
        (["--vocab-size", "32000"], "--convert-to"),
        (["--approach", "2", "--budget", "1"], "--budget"),
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


@pytest.mark.parametrize("approach", ["1", "2", "all"])
@pytest.mark.parametrize(
    "option",
    [["--freeze", "x.json"], ["--forecast", "7e9,1e12"], ["--convert-to", "n_params_matmul"], ["--against", "x.json"]],
)
def test_options_that_make_no_sense_together_are_both_named(
    isoloss: Isoloss, csv: Path, approach: str, option: list[str]
) -> None:
    ran = isoloss("fit", csv, "--approach", approach, *option)
    assert ran.code == 2
    assert option[0] in ran.err
    assert "--approach" in ran.err


@pytest.mark.parametrize(
    "option",
    [
        *(["--law", "kaplan"], ["--objective", "lsq"], ["--delta", "0.01"], ["--counting", "n_params_matmul"]),
        *(["--weights", "noise"], ["--drop-outliers"], ["--drop-off-rate"], ["--bootstrap", "0"], ["--seed", "1"]),
        *(["--resampling", "run"], ["--freeze", "y.json"], ["--compute", "1e21"]),
    ],
)
def test_nothing_is_fitted_against_a_frozen_law(isoloss: Isoloss, csv: Path, option: list[str]) -> None:
    ran = isoloss("fit", csv, "--against", "x.json", *option)
    assert ran.code == 2
    assert option[0] in ran.err
    assert "--against" in ran.err


def test_the_document_says_what_was_frozen(isoloss: Isoloss, csv: Path, tmp_path: Path) -> None:
    file = tmp_path / "frozen.json"
    ran = isoloss("fit", csv, "--freeze", file, "--forecast", "7e9,1e12", "--bootstrap", 0, "--json")
    assert ran.code == 0
    assert ran.json["frozen"]["sha256"] == json.loads(file.read_text())["sha256"]
    assert [one["n_params"] for one in ran.json["frozen"]["forecasts"]] == [7e9]
    assert isoloss("fit", csv, "--bootstrap", 0, "--json").json["frozen"] is None


def with_an_outlier(path: Path) -> Path:
    runs = made_runs(noise=0.001).assign(flops_budget=lambda runs: np.exp(np.log(runs["flops"]).round()))
    runs["loss"] *= np.where(runs.index == 7, 1.3, 1.0)
    runs.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("approach", ["1", "2", "all"])
def test_every_approach_leaves_out_what_was_dropped(isoloss: Isoloss, tmp_path: Path, approach: str) -> None:
    path = with_an_outlier(tmp_path / "runs.csv")
    asked = ["fit", path, "--approach", approach, "--bootstrap", 0]
    kept, dropped = (isoloss(*asked, *option, "--json").json for option in ([], ["--drop-outliers"]))
    assert kept["excluded"] == []
    assert [run["row"] for run in dropped["excluded"]] == [8]
    assert "dropped as an outlier" in dropped["excluded"][0]["reason"]
    counts = [[one["n_runs"] for one in found.get("approaches", [found])] for found in (kept, dropped)]
    assert counts[1] == [count - 1 for count in counts[0]]
    assert "left out: run-7: dropped as an outlier" in isoloss(*asked, "--drop-outliers").out


@pytest.mark.parametrize("resampling", ["residual", "parametric"])
def test_every_approach_is_resampled_as_asked(isoloss: Isoloss, csv: Path, resampling: str) -> None:
    asked = ["fit", csv, "--approach", "all", "--bootstrap", "100", "--resampling", resampling, "--json"]
    envelope, _, surface = isoloss(*asked).json["approaches"]
    assert envelope["resampling"]["method"] == surface["resampling"]["method"] == resampling
    for number in ("1", "all"):
        refused = isoloss("fit", csv, "--approach", number, "--resampling", "group")
        assert refused.code == 2
        assert "no group" in refused.err


def test_bowls_of_declared_budgets(isoloss: Isoloss, tmp_path: Path) -> None:
    budget, share = (x.ravel() for x in np.meshgrid(np.geomspace(1e19, 1e21, 5), np.geomspace(0.3, 3, 7)))
    law = Chinchilla()
    n_params = share * law.compute_optimum(law.as_vector(BESIROGLU), budget)[0]
    runs = pd.DataFrame({"n_params": n_params, "n_tokens": budget / (6 * n_params), "flops_budget": budget})
    path = tmp_path / "runs.csv"
    runs.assign(loss=predict(BESIROGLU, n_params, runs["n_tokens"].to_numpy()), flops=budget).to_csv(path, index=False)
    document = isoloss("fit", path, "--approach", 2, "--bootstrap", 0, "--json").json
    assert document["law"] == "isoflop"
    beta, alpha = BESIROGLU["beta"], BESIROGLU["alpha"]
    assert document["exponents"]["n_opt"] == pytest.approx(beta / (alpha + beta), abs=0.02)
    named = " ".join(
        isoloss("fit", path, "--approach", 2, "--where", "flops_budget<2e19", "--bootstrap", 0).err.split()
    )
    assert "budgets have a vertex, and 2 are needed" in named


def test_off_rate_sizes_stay_until_told(isoloss: Isoloss, tmp_path: Path) -> None:
    runs = made_runs()
    sizes = np.sort(runs["n_params"].unique())
    tuned = 1e-2 * (runs["n_params"] / sizes[0]) ** -0.3
    runs["peak_lr"] = np.where(runs["n_params"] == sizes[-1], 5 * tuned, tuned)
    tried = runs[runs["n_params"].isin(sizes[:3]) & (runs["tokens_per_param"] == 20)]
    more = [
        tried.assign(peak_lr=tried["peak_lr"] * by, loss=tried["loss"] + 0.05, run_id=tried["run_id"] + f"-{by}")
        for by in (0.5, 2)
    ]
    path = tmp_path / "runs.csv"
    pd.concat([runs, *more]).to_csv(path, index=False)
    kept, dropped = (
        isoloss("fit", path, *option, "--bootstrap", 0, "--json").json for option in ([], ["--drop-off-rate"])
    )
    assert [size["n_params"] for size in kept["off_rate"]] == [sizes[-1]]
    assert dropped["off_rate"] == []
    assert dropped["n_runs"] == kept["n_runs"] - 6
    assert sum("x the tuned" in run["reason"] for run in dropped["excluded"]) == 6


def test_counts_are_worked_out_from_shapes(isoloss: Isoloss, tmp_path: Path) -> None:
    runs = made_runs()
    runs["n_layers"] = 12
    runs["d_model"] = (64 * (runs["n_params"] / 3e7) ** (1 / 3)).round().astype(int)
    path = tmp_path / "runs.csv"
    runs.to_csv(path, index=False)
    asked = ["fit", path, "--convert-to", "n_params_matmul", "--bootstrap", 0]
    assert isoloss(*asked).code == 2
    told = isoloss(*asked, "--vocab-size", 1000, "--json").json["converted"]
    assert told["to"] == "n_params_matmul"
    assert told["max_count_error"] == 0
    tied = isoloss(*asked, "--vocab-size", 1000, "--tied-head", "--json").json["converted"]
    assert tied["params"] != told["params"]


def test_flops_of_the_table_stand_beside_six_n_d(isoloss: Isoloss, csv: Path, tmp_path: Path) -> None:
    assert "The table's own FLOPs are 6 N D." in isoloss("fit", csv, "--bootstrap", 0).out
    runs = made_runs()
    runs["flops"] *= 1 + (runs["n_params"] / 3e7) ** -0.3
    path = tmp_path / "counted.csv"
    runs.to_csv(path, index=False)
    assert "times 6 N D" in isoloss("fit", path, "--bootstrap", 0).out
    rule = isoloss("fit", path, "--bootstrap", 0, "--json").json["flops_rule"]
    assert rule["sizes"][0]["exact_over_6nd"] == pytest.approx(2, rel=1e-6)
    made_runs().drop(columns="flops").to_csv(path, index=False)
    assert isoloss("fit", path, "--bootstrap", 0, "--json").json["flops_rule"] is None
