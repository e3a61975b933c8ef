"""`isoloss next`: its table, its document, its picture, and questions that it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llama.accounting import count_parameters
from sweeps.planning.next_candidates import missing_runs
from sweeps.storage import SWEEP_YAML, open_storage
from tests.analysis.synthetic import write_sweep
from tests.sweeps.commands.conftest import Isoloss, made_runs
from tests.sweeps.examples import SWEEP, design

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
        (["--compute", "1e22", "--candidates", "nowhere.csv"], "--candidates nowhere.csv can't be read: No such file"),
        (["--compute", "1e22", "--picture", __file__], "name a folder"),
        (["--compute", "1e22", "--runs", "0"], "--runs"),
    ],
)
def test_a_bad_question_is_named(isoloss: Isoloss, csv: Path, options: list[str], says: str) -> None:
    ran = isoloss("next", csv, "--bootstrap", 100, *options)
    assert ran.code == 2
    assert says in ran.err


def test_a_sweeps_grid_is_of_shapes_that_its_ladder_can_make(isoloss: Isoloss, tmp_path: Path) -> None:
    """Its widths and one beside them at either end; cells are printed as its YAML takes them."""
    made = write_sweep(tmp_path)
    ladder = {"widths": [16, 24, 32, 48, 64, 80], "context_length": 128}
    (made.folder / SWEEP_YAML).write_text(yaml.safe_dump({**SWEEP, "ladder": ladder}))
    asked = ("--target-flops", 3e13, "--bootstrap", 100, "--runs", 4, "--storage", tmp_path)
    ran = isoloss("next", made.index.sweep, *asked, "--json")
    assert ran.code == 0
    assert {row["size"] for row in ran.json["candidates"]} <= {*(f"w{width}" for width in ladder["widths"]), "w96"}  # type: ignore[attr-defined]
    w64 = {row["n_params"] for row in ran.json["candidates"] if row["size"] == "w64"}
    assert w64 == {count_parameters(next(c.model for c in made.configs.values() if c.model.d_model == 64)).n_params}
    said = isoloss("next", made.index.sweep, *asked).out
    assert "- cells:" in said
    assert "- {size: w" in said


def test_missing_runs_are_those_of_the_design_without_a_result(tmp_path: Path) -> None:
    from analysis.fitting.fit import fit
    from analysis.runs.table import RunTable, make_frame

    frame = make_frame(made_runs().to_dict("records"))  # type: ignore[arg-type]
    fitted = fit(RunTable(source="made", frame=frame), bootstrap=0)
    planned = design()
    offered = missing_runs(planned, open_storage(tmp_path), fitted)
    runs = [run for run in planned.runs if not run.record.is_trunk]
    assert offered.names == tuple(run.record.name for run in runs)
    assert offered.runs.n_tokens_n.tolist() == [run.config.tokens for run in runs]


def test_a_tables_unfinished_runs_are_unknown(isoloss: Isoloss, csv: Path) -> None:
    ran = isoloss("next", csv, *ASKED, "--candidates", "missing")
    assert ran.code == 2
    assert "name a file" in ran.err
