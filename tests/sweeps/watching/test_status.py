"""`isoloss status` from run folders alone, in every state that a run can be found in."""

import os
import socket
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.task import FailureKind
from llama.accounting import count_parameters
from llama.config import RunConfig
from llama.errors import UserError
from llama.lease import acquire
from llama.metric_names import VAL_LOSS
from llama.records import (
    COMPLETE,
    CONFIG,
    DONE,
    FAILURE,
    HEARTBEAT,
    CheckpointMark,
    Done,
    Failure,
    Heartbeat,
    checkpoint_folder,
    write_record,
)
from llama.sweep_index import SWEEP_INDEX, SweepIndex, SweepRun
from sweeps.control import ask, resume
from sweeps.storage import Storage, SweepFolder
from sweeps.watching import run_detail as run_detail_module
from sweeps.watching.run_detail import run_detail
from sweeps.watching.status import ADVICE, NOTHING_BEGUN, RunState, sweep_status
from sweeps.watching.status_table import run_page, status_table
from sweeps.words import human
from tests.analysis.synthetic import law_loss, write_sweep
from tests.llama.shapes import branch_of, tiny_run


class Sweep:
    """One trunk with one branch."""

    def __init__(self, root: Path):
        self.storage = Storage(root)
        self.branch: RunConfig = branch_of(tiny_run())
        self.trunk: RunConfig = tiny_run().trunk()
        fork_tokens = (self.branch.fork_step or 0) * self.branch.batch_tokens
        runs = [
            SweepRun(key=self.trunk.key, name="trunk", trunk=None, is_trunk=True, flops_budget=None, held_out=False),
            SweepRun(
                key=self.branch.key,
                name="branch",
                trunk=self.trunk.key,
                is_trunk=False,
                flops_budget=None,
                held_out=False,
                n_params=count_parameters(self.branch.model).n_params,
                tokens=self.branch.tokens,
                fork_tokens=fork_tokens,
            ),
        ]
        self.index = SweepIndex(sweep="s", sweep_id="0" * 16, corpus_folder="c", spec_folder=".", runs=runs)
        self.folder.mkdir(parents=True)
        write_record(self.folder / SWEEP_INDEX, self.index)

    def start(self, config: RunConfig) -> Path:
        folder = self.storage.run(config.key)
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder / CONFIG, config)
        return folder

    def end(self, config: RunConfig, outcome: str, reason: str | None = None) -> None:
        done = Done(
            outcome=outcome,  # type: ignore[arg-type]
            reason=reason,
            step=40,
            tokens=2560,
            flops=1.0,
            metrics={VAL_LOSS: 3.0},
            training_seconds=1.0,
        )
        write_record(self.start(config) / DONE, done)

    def fail(self, config: RunConfig, *, final: bool) -> None:
        failure = Failure(attempt=3, kind="out_of_memory", message="no memory\nlong traceback", unix_ms=0, final=final)
        write_record(self.start(config) / FAILURE, failure)

    def save(self, config: RunConfig, step: int) -> None:
        folder = checkpoint_folder(self.start(config), step)
        folder.mkdir(parents=True)
        mark = CheckpointMark(
            step=step,
            tokens=step * config.batch_tokens,
            journal_bytes=0,
            journal_sha256="",
            training_seconds=1.0,
            kept=True,
            sha256={},
        )
        write_record(folder / COMPLETE, mark)

    @property
    def folder(self) -> Path:
        return self.storage.sweep("s")

    def states(self) -> dict[str, RunState]:
        folder = SweepFolder(storage=self.storage, folder=self.folder, index=self.index)
        return {run.name: run for run in sweep_status(folder).runs}

    def note(self, name: str) -> tuple[str, str | None]:
        found = self.states()[name]
        return found.state, found.note


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def test_nothing_started_is_waiting(sweep: Sweep) -> None:
    assert {run.state for run in sweep.states().values()} == {"waiting"}


def test_a_held_lease_is_running_with_its_heartbeat(sweep: Sweep) -> None:
    folder = sweep.start(sweep.trunk)
    beat = Heartbeat(attempt=1, step=7, until_step=32, tokens=448, loss=5.0, tokens_per_second=100.0, unix_ms=0)
    write_record(folder / HEARTBEAT, beat)
    with acquire(folder, attempt=1):
        trunk = sweep.states()["trunk"]
    assert (trunk.state, trunk.step, trunk.loss) == ("running", 7, 5.0)
    assert sweep.states()["trunk"].state == "stopped"


def test_a_trunk_is_finished_once_all_its_branches_have_forked(sweep: Sweep) -> None:
    sweep.start(sweep.trunk)
    sweep.end(sweep.branch, "finished")
    assert {name: run.state for name, run in sweep.states().items()} == {"trunk": "finished", "branch": "finished"}
    assert sweep.states()["branch"].loss == 3.0


def test_a_failure_says_what_would_help(sweep: Sweep) -> None:
    sweep.fail(sweep.branch, final=True)
    state, note = sweep.note("branch")
    assert state == "failed"
    assert note is not None
    assert note.startswith("attempt 3, out_of_memory: no memory: lower micro_batch")
    assert "last checkpoint" not in note
    sweep.save(sweep.branch, 8)
    assert (sweep.note("branch")[1] or "").endswith("; it goes on from its last checkpoint")


def test_a_failure_that_is_retried_is_told_so_while_its_launcher_lives(sweep: Sweep) -> None:
    sweep.fail(sweep.branch, final=False)
    said = "attempt 3, out_of_memory: no memory"
    assert sweep.note("branch") == ("stopped", f"{said}, and its launcher ended: launch the sweep again to go on")
    with acquire(sweep.folder, attempt=1):
        assert sweep.note("branch") == ("retrying", f"{said}; another attempt follows")
        with acquire(sweep.storage.run(sweep.branch.key), attempt=4):
            assert sweep.note("branch") == ("running", f"attempt 4, after {said.removeprefix('attempt 3, ')}")


def test_a_branch_waits_for_its_trunk_and_then_for_room(sweep: Sweep) -> None:
    assert sweep.note("branch") == ("waiting", "no launcher is at work")
    fork, tokens = sweep.branch.fork_step, sweep.branch.batch_tokens
    assert fork is not None
    with acquire(sweep.folder, attempt=1):
        sweep.save(sweep.trunk, 8)
        waits = f"waits for trunk to reach {human(fork * tokens)} tokens (now at {human(8 * tokens)})"
        assert sweep.note("branch") == ("waiting", waits)
        sweep.save(sweep.trunk, fork)
        with acquire(sweep.storage.run(sweep.trunk.key), attempt=1):
            assert sweep.note("branch") == ("waiting", "waits for room: 1 at work")
        assert sweep.note("branch") == ("waiting", NOTHING_BEGUN)


def test_who_paused_or_cancelled_is_told(sweep: Sweep) -> None:
    sweep.save(sweep.trunk, sweep.branch.fork_step or 0)
    ask(sweep.folder, "paused", [sweep.branch.key])
    state, note = sweep.note("branch")
    assert state == "paused"
    assert note is not None
    assert f" on {socket.gethostname()} " in note
    assert note.endswith("ago: isoloss resume s --run branch lets it go on")
    with acquire(sweep.start(sweep.branch), attempt=1):
        assert "is asked to leave: paused by " in (sweep.note("branch")[1] or "")
    ask(sweep.folder, "cancelled")
    state, note = sweep.note("branch")
    assert (state, (note or "").partition(": ")[2]) == ("cancelled", "isoloss resume s lets it go on")


def test_a_trunk_is_finished_once_every_branch_that_is_not_cancelled_can_fork(sweep: Sweep) -> None:
    sweep.save(sweep.trunk, 8)
    assert sweep.states()["trunk"].state == "stopped"
    sweep.save(sweep.trunk, sweep.branch.fork_step or 0)
    assert sweep.states()["trunk"].state == "finished"
    ask(sweep.folder, "cancelled", [sweep.branch.key])
    assert sweep.note("trunk") == ("cancelled", "all its branches are")


def test_a_branch_of_a_cancelled_or_paused_trunk_waits_unless_its_fork_is_there(sweep: Sweep) -> None:
    sweep.save(sweep.trunk, 8)
    ask(sweep.folder, "paused", [sweep.trunk.key])
    state, note = sweep.note("branch")
    assert (state, (note or "").endswith(", which is paused")) == ("waiting", True)
    ask(sweep.folder, "cancelled", [sweep.trunk.key])
    assert sweep.note("branch") == ("cancelled", "its trunk trunk is")
    sweep.save(sweep.trunk, sweep.branch.fork_step or 0)
    assert sweep.note("branch") == ("waiting", "no launcher is at work")


def test_a_killed_process_and_a_silent_one_are_told(sweep: Sweep) -> None:
    folder = sweep.start(sweep.branch)
    beat = Heartbeat(attempt=1, step=33, until_step=40, tokens=64 * 33, loss=5.0, tokens_per_second=1.0, unix_ms=0)
    write_record(folder / HEARTBEAT, beat)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True, check=False)
    pid = killed.stdout.strip()
    state, note = sweep.note("branch")
    assert state == "stopped"
    assert (note or "").startswith(f"process {pid} on ")
    assert (note or "").endswith("died at it; launch the sweep again to go on")
    with acquire(folder, attempt=2):
        assert (sweep.note("branch")[1] or "").startswith("no sign of life for ")
    opened = SweepFolder(storage=sweep.storage, folder=sweep.folder, index=sweep.index)
    found = sweep_status(opened)
    detail = run_detail(opened, found, "branch")
    assert [attempt.end.partition(" on ")[0] for attempt in detail.attempts] == [
        f"process {pid}",
        "left in good order",
    ]
    assert detail.disk_bytes > 0
    assert run_page(detail) is not None
    with pytest.raises(UserError, match="did you mean 'branch'"):
        run_detail(opened, found, "branhc")


def test_files_that_vanish_while_a_run_is_looked_at_are_left_out(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """As heartbeats do, which are renamed into place, and checkpoints, of which all but the last are deleted."""
    folder = sweep.start(sweep.branch)
    sweep.save(sweep.branch, 33)
    opened = SweepFolder(storage=sweep.storage, folder=sweep.folder, index=sweep.index)
    found = sweep_status(opened)
    before = run_detail(opened, found, "branch")
    walked = list(os.walk(folder))
    walked.append((str(folder / "deleted"), [], ["weights.pt"]))
    walked.append((str(folder), [], [".heartbeat.json.1234"]))
    monkeypatch.setattr(os, "walk", lambda path: walked)
    monkeypatch.setattr(run_detail_module, "complete_steps", lambda path: [33, 34])
    after = run_detail(opened, found, "branch")
    assert after.disk_bytes == before.disk_bytes > 0
    assert after.checkpoint_age_seconds is not None


#: Takes the lease of a run and is killed at it.
KILLED = """
import os, signal, sys
from pathlib import Path
from llama.lease import acquire
lease = acquire(Path(sys.argv[1]), attempt=1)
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_damaged_file_is_that_runs_failure_alone(sweep: Sweep) -> None:
    (sweep.start(sweep.branch) / DONE).write_text("{")
    states = sweep.states()
    assert states["branch"].state == "failed"
    assert "DONE" in (states["branch"].note or "")
    assert states["trunk"].state == "finished"


def test_suspect_runs_and_projected_losses_are_told(tmp_path: Path) -> None:
    """Of a whole synthetic sweep one run is unfinished, and another did worse than a shorter one of its size."""
    made = write_sweep(tmp_path, noise=0.002)
    branches = [run for run in made.index.runs if not run.is_trunk and not run.held_out]
    unfinished, spoilt = branches[-1], branches[-2]
    (made.storage / "runs" / unfinished.key / DONE).unlink()
    path = made.storage / "runs" / spoilt.key / DONE
    done = Done.model_validate_json(path.read_text())
    write_record(
        path, done.model_copy(update={"metrics": done.metrics | {VAL_LOSS: 1.3 * (done.metrics[VAL_LOSS] or 0)}})
    )
    storage = Storage(made.storage)
    found = sweep_status(SweepFolder(storage=storage, folder=made.folder, index=made.index))
    by_name = {run.name: run for run in found.runs}
    projected = by_name[unfinished.name].projected
    assert projected is not None
    config = made.configs[unfinished.key]
    truth = law_loss(count_parameters(config.model).n_params, config.tokens or 0)
    assert abs(projected.loss - truth) < max(3 * projected.plus_minus, 0.02 * truth)
    assert "which saw" in by_name[spoilt.name].suspicions[0]
    assert "robust sds" in by_name[spoilt.name].suspicions[-1]
    assert (found.law or "").startswith("law so far: ")
    console = Console(file=StringIO(), width=200)
    console.print(status_table(found))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 finished run is suspect" in text
    assert "suspect: its loss" in text


def test_a_diverged_trunk_blocks_its_branches_and_says_why(sweep: Sweep) -> None:
    sweep.end(sweep.trunk, "diverged", "train loss nan at step 40")
    states = sweep.states()
    assert (states["trunk"].state, states["trunk"].note) == ("diverged", "train loss nan at step 40")
    assert (states["branch"].state, states["branch"].note) == ("blocked", "its trunk trunk diverged")


def test_what_was_asked_of_runs_shows_with_the_command_that_takes_it_back(sweep: Sweep) -> None:
    folder = sweep.storage.sweep("s")
    ask(folder, "paused")
    assert {run.state for run in sweep.states().values()} == {"paused"}
    assert all((run.note or "").endswith("ago: isoloss resume s lets it go on") for run in sweep.states().values())
    resume(folder)
    ask(folder, "cancelled", [sweep.trunk.key])
    states = sweep.states()
    assert (states["trunk"].note or "").endswith("ago: isoloss resume s --run trunk lets it go on")
    assert (states["branch"].state, states["branch"].note) == ("cancelled", "its trunk trunk is")
    resume(folder, [sweep.trunk.key])
    ask(folder, "cancelled", [sweep.branch.key])
    assert sweep.states()["trunk"].note == "all its branches are"
    sweep.end(sweep.branch, "finished")
    assert sweep.states()["branch"].state == "finished"


def test_every_kind_of_failure_but_divergence_which_is_an_outcome_has_advice() -> None:
    assert ADVICE.keys() == set(FailureKind) - {FailureKind.NON_FINITE}


def test_a_training_loss_is_labelled_and_a_validation_loss_is_not(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    beat = Heartbeat(attempt=1, step=7, until_step=32, tokens=448, loss=5.0, tokens_per_second=100.0, unix_ms=0)
    sweep.start(sweep.trunk)
    write_record(sweep.storage.run(sweep.trunk.key) / HEARTBEAT, beat)
    sweep.end(sweep.branch, "finished")
    console = Console(file=StringIO(), width=200)
    console.print(
        status_table(sweep_status(SweepFolder(storage=sweep.storage, folder=sweep.folder, index=sweep.index)))
    )
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "train 5.0000" in text
    assert "train 3.0000" not in text
    assert "3.0000" in text
