"""Files that a power cut or a bad disk changed: the same command goes on from what is whole, never to a wrong number."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from llama.checkpoint import MODEL_FILE
from llama.records import (
    COMPLETE,
    CONFIG,
    DONE,
    INFERENCE,
    JOURNAL,
    CheckpointMark,
    checkpoint_folder,
    complete_steps,
    read_checkpoint_mark,
)
from llama.sweep_index import SWEEP_INDEX
from tests.faults import ledger
from tests.faults.figures import count
from tests.faults.gates import arm, wait_until_held
from tests.faults.invariants import assert_nothing_left, assert_recovered
from tests.faults.sweep import Launch, Sweep
from tests.integration.conftest import read_index

LONG_AGO = 1_000_000_000
BOUNDED_SECONDS = 900


def spoil(path: Path, offset: int = 0) -> None:
    """Change one byte, as a bad disk would."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x15]))


def spoil_lease(folder: Path) -> None:
    """An empty file, as a power cut leaves it; its owner beat last before that."""
    newest = max((folder / "lease").glob("[0-9]*.json"))
    newest.write_bytes(b"")
    os.utime(newest, (LONG_AGO, LONG_AGO))


def trunks_of(sweep: Sweep) -> list[Path]:
    index = sweep.storage / "sweeps" / sweep.name / SWEEP_INDEX
    runs = read_index(sweep.storage, sweep.name).runs if index.exists() else []
    return [sweep.storage / "runs" / run.key for run in runs if run.is_trunk]


def marks_of(folder: Path) -> list[CheckpointMark]:
    marks = [read_checkpoint_mark(folder, step) for step in complete_steps(folder)]
    return [mark for mark in marks if mark is not None]


def is_in_a_later_segment(trunk: Path) -> bool:
    """Whether the end of a segment is followed by two checkpoints that vouch for more of the journal."""
    *ends, before, newest = [None, None, *marks_of(trunk)]
    if before is None or newest is None or not ends or ends[-1] is None:
        return False
    return ends[-1].kept and not before.kept and before.journal_bytes > ends[-1].journal_bytes


def kill_a_worker(sweep: Sweep, launch: Launch) -> None:
    """SIGKILL of one that trains; `training` is armed."""
    held = wait_until_held(sweep.faults, "training", alive=lambda: launch.is_alive)
    ledger.write(sweep.faults, "kill", victim="worker", state="training")
    psutil.Process(held.pid).kill()


def kill_in_a_trunks_later_segment(sweep: Sweep, launch: Launch) -> Path:
    """SIGKILL of the launcher; that trunk's folder."""
    deadline = time.monotonic() + 300
    while not any(is_in_a_later_segment(trunk) for trunk in trunks_of(sweep)):
        assert launch.is_alive, launch.said
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ledger.write(sweep.faults, "kill", victim="launcher", state="training")
    launch.kill()
    assert_nothing_left(sweep)
    return next(trunk for trunk in trunks_of(sweep) if is_in_a_later_segment(trunk))


@pytest.mark.timeout(BOUNDED_SECONDS)
def test_a_killed_worker_then_a_killed_launcher_and_damaged_checkpoints(sweep: Sweep, undisturbed: Sweep) -> None:
    """The short form of all experiments: a sweep that loses all of these in one launch."""
    arm(sweep.faults, "training")
    launch = replace(sweep, step_seconds=0.03).start()  # time to be caught in
    kill_a_worker(sweep, launch)
    trunk = kill_in_a_trunks_later_segment(sweep, launch)
    *_, end, before, newest = marks_of(trunk)
    spoil(checkpoint_folder(trunk, newest.step) / MODEL_FILE, 900)
    spoil(checkpoint_folder(trunk, before.step) / COMPLETE, 40)
    spoil(trunk / JOURNAL, end.journal_bytes + 20)
    spoil_lease(trunk)
    spoil_lease(sweep.storage / "sweeps" / sweep.name)
    sweep.finish()
    assert_recovered(sweep, undisturbed, damaged=True)
    recovered = {name: victim.recoveries for name, victim in count(ledger.read(sweep.faults)).by_victim.items()}
    assert recovered == {"launcher": 1, "worker": 1}


@pytest.mark.slow
@pytest.mark.timeout(BOUNDED_SECONDS)
def test_damaged_results_are_made_again_and_nothing_is_trained(sweep: Sweep, undisturbed: Sweep) -> None:
    sweep.finish()
    trained = sum(entry.kind == "step" for entry in ledger.read(sweep.faults))
    runs = [sweep.storage / "runs" / run.key for run in read_index(sweep.storage, sweep.name).runs if not run.is_trunk]
    spoil(runs[0] / DONE, 3)
    spoil(runs[1] / CONFIG, 3)
    spoil(runs[2] / INFERENCE, 3)
    spoil(sweep.storage / "sweeps" / sweep.name / SWEEP_INDEX, 3)
    launch = sweep.start()
    assert launch.result()["finished"] == len(runs)
    for name in (DONE, CONFIG, INFERENCE, SWEEP_INDEX):
        assert any(name in line and "does not hold" in line for line in launch.said.splitlines()), launch.said
    assert sum(entry.kind == "step" for entry in ledger.read(sweep.faults)) == trained
    assert_recovered(sweep, undisturbed, damaged=True)
