"""What must hold after any fault, once the same command has run to its end.

- The sweep is complete.
- Every run was trained by one writer at a time: whatever was committed, its committer held the run's latest lease.
- Every attempt went on right after the last checkpoint: redone are the steps since then, and nothing of a finished run.
- Journals hold every point once, and MLflow what the journals hold.
- Losses, weights and journals are those of a sweep that nobody disturbed, bit for bit: it was trained in one process, one
  segment after the other.
- No process is left.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from llama.records import complete_steps, read_checkpoint_mark, read_config, read_done, read_journal
from tests.faults import ledger
from tests.faults.ledger import Entry
from tests.faults.sweep import Sweep, processes_of
from tests.integration.conftest import read_index
from tests.llama.attempts import journalled
from tests.sweeps.tracking.reading import assert_mirrors

#: Ray's processes need a moment to go when what they belonged to was killed.
LEAVING_SECONDS = 60.0


def assert_recovered(sweep: Sweep, undisturbed: Sweep, *, database: Path | None = None, damaged: bool = False) -> None:
    """Everything above. `damaged`: checkpoints were, so that an attempt may have gone on from an earlier one."""
    assert_complete(sweep)
    entries = ledger.read(sweep.faults)
    assert_one_writer(entries)
    assert_leases_agree(sweep, entries)
    if not damaged:
        assert_only_lost_steps_redone(entries, first_steps(sweep))
    assert_journals_whole(sweep)
    assert_mirrors(database or sweep.storage / "mlflow.db", sweep.storage, read_index(sweep.storage, sweep.name))
    assert_same_bits(sweep, undisturbed)
    assert_nothing_left(sweep)


def assert_complete(sweep: Sweep) -> None:
    for run in read_index(sweep.storage, sweep.name).runs:
        done = read_done(sweep.storage / "runs" / run.key)
        assert run.is_trunk or (done is not None and done.outcome == "finished"), run.name


def assert_one_writer(entries: list[Entry]) -> None:
    holder: dict[str, int] = {}
    for entry in entries:
        if entry.kind == "acquire":
            holder[entry.run] = entry.pid
        elif entry.kind in ("checkpoint", "done"):
            assert holder[entry.run] == entry.pid, f"{entry} by a writer whose place {holder[entry.run]} had taken"


def assert_leases_agree(sweep: Sweep, entries: list[Entry]) -> None:
    """Each taking of a lease left its file, numbered in order."""
    taken: defaultdict[str, list[int]] = defaultdict(list)
    for entry in entries:
        if entry.kind == "acquire":
            taken[entry.run].append(entry.step)
    for run, numbers in taken.items():
        files = sorted(int(path.stem) for path in (sweep.storage / "runs" / run / "lease").glob("[0-9]*.json"))
        assert numbers == sorted(set(numbers)), f"run {run} was taken out of order: {numbers}"
        assert set(numbers) <= set(files), f"run {run} has leases {files}, but {numbers} were taken"


def first_steps(sweep: Sweep) -> dict[str, int]:
    """By key the step that a run starts from: 0, or where it forks from its trunk."""
    configs = {
        run.key: read_config(sweep.storage / "runs" / run.key) for run in read_index(sweep.storage, sweep.name).runs
    }
    return {key: config.fork_step or 0 for key, config in configs.items() if config is not None}


def assert_only_lost_steps_redone(entries: list[Entry], first_steps: dict[str, int]) -> None:
    """Every attempt begins after the last checkpoint and misses no step; nothing is trained after DONE, but by a writer whose
    place was taken, which does not know yet.
    """
    committed = dict(first_steps)
    holder: dict[str, int] = {}
    latest: dict[tuple[str, int], int] = {}
    done: set[str] = set()
    for entry in entries:
        match entry.kind:
            case "acquire":
                holder[entry.run] = entry.pid
                latest[entry.run, entry.pid] = committed[entry.run]
            case "step":
                is_late = holder[entry.run] != entry.pid
                assert is_late or entry.run not in done, f"{entry}: that run was finished"
                assert entry.step == latest[entry.run, entry.pid] + 1, f"{entry} after {latest[entry.run, entry.pid]}"
                latest[entry.run, entry.pid] = entry.step
            case "checkpoint":
                assert entry.step >= committed[entry.run], f"{entry} after {committed[entry.run]}"
                committed[entry.run] = entry.step
            case "done":
                done.add(entry.run)


def assert_journals_whole(sweep: Sweep) -> None:
    for run in read_index(sweep.storage, sweep.name).runs:
        folder = sweep.storage / "runs" / run.key
        points = [(point.step, name) for point in read_journal(folder) for name in point.metrics]
        assert len(points) == len(set(points)), f"{run.name} has a point twice"
        assert [step for step, _ in points] == sorted(step for step, _ in points), f"{run.name} is out of order"


def outcome(sweep: Sweep) -> dict[str, Any]:
    """By run name all that doesn't depend on when and where it was trained: final metrics, weights, journal."""
    found: dict[str, Any] = {}
    for run in read_index(sweep.storage, sweep.name).runs:
        folder = sweep.storage / "runs" / run.key
        done = read_done(folder)
        marks = [read_checkpoint_mark(folder, step) for step in complete_steps(folder)]
        found[run.name] = {
            "metrics": done.metrics if done is not None else None,
            "weights": {
                mark.step: mark.sha256["model.safetensors"] for mark in marks if mark is not None and mark.kept
            },
            "journal": journalled(folder),
        }
    return found


def assert_same_bits(sweep: Sweep, undisturbed: Sweep) -> None:
    ours, theirs = outcome(sweep), outcome(undisturbed)
    for name, expected in theirs.items():
        assert ours[name] == expected, f"{name} differs from the undisturbed run"


def assert_nothing_left(sweep: Sweep) -> None:
    """Of the launches; a standing cluster's own processes stay."""
    deadline = time.monotonic() + LEAVING_SECONDS
    while left := processes_of(sweep, launch_only=True):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
