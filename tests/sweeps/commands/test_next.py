"""`isoloss next`: its table, its document, its picture, and questions that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweeps.commands.conftest import Isoloss

ASKED = ("--target-flops", 1e22, "--bootstrap", 100)


def test_the_table_the_verdict_and_what_to_copy(isoloss: Isoloss, csv: Path, tmp_path: Path) -> None:
    ran = isoloss("next", csv, *ASKED, "--runs", 3, "--picture", tmp_path / "pictures")
    assert ran.code == 0
    assert ran.out.startswith("Today the law chinchilla of 48 runs would train")
    assert "expected saving" in ran.out
    assert ran.out.count("- {n_params:") >= 1
    assert (tmp_path / "pictures" / "next-runs.png").stat().st_size > 10_000


def test_the_document(isoloss: Isoloss, csv: Path) -> None:
    ran = isoloss("next", csv, *ASKED, "--spend", 1e21, "--narrow", "loss", "--json")
    assert ran.code == 0
    assert ran.json["narrow"]["quantity"] == "loss"
    assert ran.json["next"][-1]["spent_flops"] <= 1e21
    lo, hi = ran.json["next"][-1]["ci95_after"]
    assert ran.json["narrow"]["ci95"][0] < lo < hi < ran.json["narrow"]["ci95"][1]
    assert set(ran.json["stop"]) >= {"enough", "worth_runs", "expected_waste", "words"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--compute"),
        (["--compute", "1e22", "--size", "1e9"], "--size is for isoloss recommend"),
        (["--compute", "1e22", "--family", "3"], "--family is for isoloss recommend"),
        (["--compute", "1e22", "--candidates", "nowhere.csv"], "nowhere.csv"),
        (["--compute", "1e22", "--runs", "0"], "--runs"),
    ],
)
def test_a_bad_question_is_named(isoloss: Isoloss, csv: Path, options: list[str], says: str) -> None:
    ran = isoloss("next", csv, "--bootstrap", 100, *options)
    assert ran.code == 2
    assert says in ran.err
