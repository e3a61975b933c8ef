"""`isoloss pause`, `resume` and `cancel` on a launched sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama.records import write_record
from llama.sweep_index import SWEEP_INDEX, SweepIndex, SweepRun
from sweeps.control import read_control
from tests.sweeps.commands.conftest import Isoloss


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    runs = [
        SweepRun(key=f"key-{name}", name=name, trunk=None, is_trunk=False, flops_budget=None, held_out=False)
        for name in ("w16-C1e9-s0", "w32-C1e9-s0")
    ]
    index = SweepIndex(sweep="tiny", sweep_id="0" * 16, corpus_folder="c", spec_folder=".", runs=runs)
    (tmp_path / "sweeps" / "tiny").mkdir(parents=True)
    write_record(tmp_path / "sweeps" / "tiny" / SWEEP_INDEX, index)
    return tmp_path


def test_a_sweep_is_paused_and_resumed(isoloss: Isoloss, storage: Path) -> None:
    paused = isoloss("pause", "tiny", "--storage", storage)
    assert (paused.code, paused.err) == (0, "")
    assert paused.out.splitlines() == ["tiny: paused", "no launcher is at work: the next one heeds that"]
    assert read_control(storage / "sweeps/tiny").paused
    resumed = isoloss("resume", "tiny", "--storage", storage, "--json")
    assert resumed.json == {
        "sweep": "tiny",
        "paused": False,
        "cancelled": False,
        "paused_runs": [],
        "cancelled_runs": [],
    }


def test_single_runs_go_by_name_and_outlast_the_whole_sweeps_resuming(isoloss: Isoloss, storage: Path) -> None:
    both = ("--run", "w16-C1e9-s0", "--run", "w32-C1e9-s0")
    assert isoloss("pause", "tiny", *both, "--storage", storage).code == 0
    cancelled = isoloss("cancel", "tiny", "--run", "w16-C1e9-s0", "--storage", storage, "--json")
    assert cancelled.json["paused_runs"] == ["w32-C1e9-s0"]
    assert cancelled.json["cancelled_runs"] == ["w16-C1e9-s0"]
    left = isoloss("resume", "tiny", "--storage", storage).out.splitlines()
    assert "cancelled: w16-C1e9-s0 (isoloss resume tiny --run w16-C1e9-s0 lets it go on)" in left
    assert "paused: w32-C1e9-s0 (isoloss resume tiny --run w32-C1e9-s0 lets it go on)" in left
    resumed = isoloss("resume", "tiny", *both, "--storage", storage)
    assert resumed.out.splitlines()[0] == "tiny: free to run"


def test_a_run_that_is_not_there_is_refused_with_the_nearest(isoloss: Isoloss, storage: Path) -> None:
    refused = isoloss("cancel", "tiny", "--run", "w16-C1e9-s1", "--storage", storage)
    assert refused.code == 2
    assert "--run w16-C1e9-s1: sweep tiny has no such run; did you mean 'w16-C1e9-s0'?" in refused.err
    assert isoloss("pause", "tinny", "--storage", storage).code == 2


def test_a_run_of_a_cancelled_sweep_is_not_resumed_alone(isoloss: Isoloss, storage: Path) -> None:
    isoloss("cancel", "tiny", "--storage", storage)
    refused = isoloss("resume", "tiny", "--run", "w16-C1e9-s0", "--storage", storage)
    assert (refused.code, "cancelled as a whole" in refused.err) == (2, True)
    assert read_control(storage / "sweeps/tiny").cancelled
