"""`isoloss next`: its table, its document, its picture, and questions that it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import yaml

from analysis.next.candidates import Trunk
from analysis.next.describe_next import cells_yaml
from analysis.results.next_runs import CandidateRun
from llama.accounting import count_parameters
from llama.records import COMPLETE, CONFIG, CheckpointMark, checkpoint_folder, write_record
from llama.sweep_index import SWEEP_INDEX
from sweeps.planning.next_candidates import ladder_sizes, missing_runs
from sweeps.storage import SWEEP_YAML, open_storage, open_sweep
from tests.analysis.synthetic import write_sweep
from tests.sweeps.commands.conftest import Isoloss, made_runs
from tests.sweeps.examples import SWEEP, design

if TYPE_CHECKING:
    from analysis.results.next_runs import NextRuns

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
        ([], "ask one question: --compute (or --target-flops), --target-loss or --budget; none of them was given"),
        (["--target-flops", "-1"], "--compute (or --target-flops) is -1; it must be above 0"),
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
    assert ", seed: " in said


def test_what_is_held_out_of_fits_is_no_candidate(tmp_path: Path) -> None:
    """Neither the largest size nor a width above it, which would be the largest in its turn; nor long runs."""
    made = write_sweep(tmp_path)
    widths = [16, 24, 32, 48, 64, 80]
    held_out = {"largest_size": True, "tokens_per_parameter_above": 40}
    ladder = {"widths": widths, "context_length": 128}
    (made.folder / SWEEP_YAML).write_text(yaml.safe_dump({**SWEEP, "ladder": ladder, "held_out": held_out}))
    sizes = ladder_sizes(open_sweep(made.index.sweep, open_storage(tmp_path)), "n_params")
    assert [size.label for size in sizes] == [f"w{width}" for width in widths[:-1]]
    assert [size.most_tokens for size in sizes] == [40 * size.n_params for size in sizes]


def test_a_width_beside_the_ladder_says_what_has_to_be_added(isoloss: Isoloss, tmp_path: Path) -> None:
    made = write_sweep(tmp_path)
    ladder = {"widths": [16, 24, 32, 48, 64, 80], "context_length": 128}
    (made.folder / SWEEP_YAML).write_text(yaml.safe_dump({**SWEEP, "ladder": ladder}))
    asked = ("--target-flops", 3e13, "--bootstrap", 100, "--spend", 2e13, "--storage", tmp_path, "--json")
    needs = {row["size"]: row["needs"] for row in isoloss("next", made.index.sweep, *asked).json["candidates"]}
    assert needs == {size: "ladder.widths: add 96" if size == "w96" else None for size in needs}
    assert "w96" in needs


def test_cells_can_be_pasted() -> None:
    """What is printed, after what it needs was added, is a part of the sweep with one run a line."""
    steps = [_step("w48", 500_000, 3, "ladder.widths: add 48"), _step("w16", 400_000, 0, "")]
    found = cast("NextRuns", SimpleNamespace(chosen=steps, stop=SimpleNamespace(worth=2)))
    lines = cells_yaml(found)
    assert "# it needs ladder.widths: add 48" in lines
    pasted = yaml.safe_load("\n".join(lines))
    before, after = (
        {
            (run.size, run.config.seed, run.record.tags["budget"])
            for run in design(
                budgets=parts,
                ladder__widths=[16, 32, 48],
                seeds={"base": [0, 1, 2]},
                recipe__reference_budget={"flops": 4e11},
            ).runs
            if not run.record.is_trunk
        }
        for parts in ([{"flops": [4e11]}], [{"flops": [4e11]}, *pasted])
    )
    assert {run[:2] for run in after - before} == {("w48", 3), ("w16", 0)}
    assert len(after) == len(before) + 2


def _step(size: str, tokens: float, seed: int, needs: str) -> SimpleNamespace:
    run = CandidateRun(
        name=size, size=size, seed=seed, needs=needs, n_params=1e5, n_tokens=tokens, flops=1e11, cost=1e11, share=0.1
    )
    return SimpleNamespace(run=run, spent_flops=1e11)


def test_standing_trunks_are_read_from_their_checkpoints(tmp_path: Path) -> None:
    """Their tokens, where their branches fork, and their seeds; what no run has is the seed of a repeat."""
    made = write_sweep(tmp_path)
    ladder = {"widths": [16, 24, 32, 48, 64, 80], "context_length": 128}
    (made.folder / SWEEP_YAML).write_text(yaml.safe_dump({**SWEEP, "ladder": ladder}))
    trunk = next(run for run in made.index.runs if run.is_trunk and run.name == "w16-trunk-s1")
    branch = next(run for run in made.index.runs if run.trunk == trunk.key)
    index = made.index.model_copy(
        update={
            "runs": [
                run.model_copy(update={"tokens": 1_000_000, "fork_tokens": 800_000}) if run == branch else run
                for run in made.index.runs
            ]
        }
    )
    write_record(made.folder / SWEEP_INDEX, index)
    storage = open_storage(tmp_path)
    folder = storage.run(trunk.key)
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / CONFIG, made.configs[trunk.key])
    for step, tokens in ((10, 400_000), (20, 800_000)):
        mark = CheckpointMark(
            step=step, tokens=tokens, journal_bytes=0, training_seconds=1.0, kept=True, sha256={"model": "0"}
        )
        checkpoint_folder(folder, step).mkdir(parents=True)
        write_record(checkpoint_folder(folder, step) / COMPLETE, mark)
    checkpoint_folder(folder, 30).mkdir()  # was never completed
    w16 = next(size for size in ladder_sizes(open_sweep(index.sweep, storage), "n_params") if size.label == "w16")
    standing = next(found for found in w16.trunks if found.key == trunk.key)
    assert standing == Trunk(trunk.key, (400_000.0, 800_000.0), 0.8, 1)
    assert standing.tokens_to_train(1_000_000) == 200_000
    assert standing.tokens_to_train(600_000) == 200_000
    assert w16.new_seed == 3


def test_missing_runs_are_those_of_the_design_without_a_result(tmp_path: Path) -> None:
    """Each off its own seed's trunk, and none that is held out of fits."""
    from analysis.fitting.fit import fit
    from analysis.runs.table import RunTable, make_frame

    frame = make_frame(made_runs().to_dict("records"))  # type: ignore[arg-type]
    fitted = fit(RunTable(source="made", frame=frame), bootstrap=0)
    planned = design(seeds={"base": [0, 1]}, held_out={"largest_size": True})
    offered = missing_runs(planned, open_storage(tmp_path), fitted)
    runs = [run for run in planned.runs if not run.record.is_trunk and run.size == "w16"]
    assert offered.names == tuple(run.record.name for run in runs)
    assert offered.runs.n_tokens_n.tolist() == [run.config.tokens for run in runs]
    assert offered.runs.trunk_n.tolist() == [run.record.trunk for run in runs]
    assert len(set(offered.runs.trunk_n)) == 2
    assert offered.seeds == tuple(run.config.seed for run in runs)


def test_a_tables_unfinished_runs_are_unknown(isoloss: Isoloss, csv: Path) -> None:
    ran = isoloss("next", csv, *ASKED, "--candidates", "missing")
    assert ran.code == 2
    assert "name a file" in ran.err
