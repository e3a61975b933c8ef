"""`isoloss compare`: its answer on a known multiplier, how each side is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.sweeps.commands.conftest import Isoloss, made_runs


@pytest.fixture
def better(tmp_path: Path) -> Path:
    path = tmp_path / "better.csv"
    made_runs(seed=1, compute=2.0).to_csv(path, index=False)
    return path


def test_a_better_recipe_is_worth_its_compute(isoloss: Isoloss, csv: Path, better: Path) -> None:
    document = isoloss("compare", csv, better, "--bootstrap", 200, "--json").json
    lo, hi = document["multiplier"]["ci95"]
    assert lo < 2.0 < hi
    assert "better.csv is the better" in " ".join(isoloss("compare", csv, better, "--bootstrap", 200).out.split())


def test_one_file_is_compared_with_itself_by_conditions(isoloss: Isoloss, tmp_path: Path) -> None:
    both = pd.concat([made_runs().assign(recipe="old"), made_runs(seed=1, compute=1.5).assign(recipe="new")])
    path = tmp_path / "both.csv"
    both.assign(run_id=range(len(both))).to_csv(path, index=False)
    halves = ["--where-a", "recipe=old", "--where-b", "recipe=new"]
    assert isoloss("compare", path, path, *halves, "--bootstrap", 100).code == 0
    assert isoloss("compare", path, path, "--where-a", "recipe=older", "--bootstrap", 100).code == 2


def test_each_side_may_have_its_own_names(isoloss: Isoloss, csv: Path, better: Path) -> None:
    plain = isoloss("compare", csv, better, "--bootstrap", 0, "--json").json
    runs = pd.read_csv(better).rename(columns={"loss": "val"})
    runs.to_csv(better, index=False)
    assert isoloss("compare", csv, better, "--bootstrap", 0).code == 2
    named = isoloss("compare", csv, better, "--map-b", "loss=val", "--bootstrap", 0, "--json").json
    assert named["multiplier"] == plain["multiplier"]


def test_the_multiplier_is_told_where_it_was_asked_for(isoloss: Isoloss, csv: Path, better: Path) -> None:
    asked = ["--at-compute", "1e21", "--at-compute", "1e24", "--bootstrap", "100"]
    document = isoloss("compare", csv, better, *asked, "--json").json
    assert [row["flops"] for row in document["curve"]] == pytest.approx([1e21, 1e24])
    assert [row["inside"] for row in document["curve"]] == [True, False]
    assert document["at_flops"] == pytest.approx(1e21)
    assert document["multiplier"]["value"] == document["curve"][0]["multiplier"]
    said = isoloss("compare", csv, better, *asked).out
    assert "- at 1e21 FLOPs" in said
    assert "beyond what both cover" in said.split("- at 1e24 FLOPs")[1]
    assert isoloss("compare", csv, better, "--at-compute", 1e21, "--at-loss", 2.5).code == 2


def test_runs_that_were_left_out_are_told_of_each_side(isoloss: Isoloss, csv: Path, better: Path) -> None:
    runs = pd.read_csv(better)
    runs.assign(status=["diverged" if i == 3 else "finished" for i in range(len(runs))]).to_csv(better, index=False)
    assert "B: left out: run-3: diverged" in isoloss("compare", csv, better, "--bootstrap", 0).out
    document = isoloss("compare", csv, better, "--bootstrap", 0, "--json").json
    assert document["a"]["excluded"] == []
    assert [run["reason"] for run in document["b"]["excluded"]] == ["diverged"]


def test_losses_in_bits_and_in_nats_are_not_compared(isoloss: Isoloss, csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "bits.csv"
    runs = made_runs(seed=1)
    runs.assign(loss=runs["loss"] / np.log(2)).to_csv(path, index=False)
    for pair, odd in (((csv, path), "bits.csv"), ((path, csv), "bits.csv")):
        ran = isoloss("compare", *pair, "--bootstrap", 0)
        assert ran.code == 2
        assert f"losses of {odd}" in ran.err.replace(str(tmp_path) + "/", "")
