"""`isoloss status` from run folders alone, in every state that a run can be found in."""

from pathlib import Path

import pytest

from llama.config import RunConfig
from llama.lease import acquire
from llama.metric_names import VAL_LOSS
from llama.records import CONFIG, DONE, FAILURE, HEARTBEAT, Done, Failure, Heartbeat, write_record
from llama.sweep_index import SweepIndex, SweepRun
from sweeps.control import ask, resume
from sweeps.status import RunState, sweep_status
from sweeps.storage import Storage, SweepFolder
from tests.llama.shapes import branch_of, tiny_run


class Sweep:
    """One trunk with one branch."""

    def __init__(self, root: Path):
        self.storage = Storage(root)
        self.branch: RunConfig = branch_of(tiny_run())
        self.trunk: RunConfig = tiny_run().trunk()
        runs = [
            SweepRun(key=self.trunk.key, name="trunk", trunk=None, is_trunk=True, flops_budget=None, held_out=False),
            SweepRun(
                key=self.branch.key,
                name="branch",
                trunk=self.trunk.key,
                is_trunk=False,
                flops_budget=None,
                held_out=False,
            ),
        ]
        self.index = SweepIndex(sweep="s", sweep_id="0" * 16, corpus_folder="c", spec_folder=".", runs=runs)

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

    def states(self) -> dict[str, RunState]:
        folder = SweepFolder(storage=self.storage, folder=self.storage.sweep("s"), index=self.index)
        return {run.name: run for run in sweep_status(folder).runs}


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


def test_a_failure_is_told_until_the_run_ends(sweep: Sweep) -> None:
    folder = sweep.start(sweep.branch)
    failure = Failure(attempt=3, kind="out_of_memory", message="no memory\nlong traceback", unix_ms=0)
    write_record(folder / FAILURE, failure)
    branch = sweep.states()["branch"]
    assert (branch.state, branch.note) == ("failed", "attempt 3, out_of_memory: no memory")


def test_a_diverged_trunk_blocks_its_branches_and_says_why(sweep: Sweep) -> None:
    sweep.end(sweep.trunk, "diverged", "train loss nan at step 40")
    states = sweep.states()
    assert (states["trunk"].state, states["trunk"].note) == ("diverged", "train loss nan at step 40")
    assert (states["branch"].state, states["branch"].note) == ("blocked", "its trunk trunk diverged")


def test_what_was_asked_of_runs_shows_with_the_command_that_takes_it_back(sweep: Sweep) -> None:
    folder = sweep.storage.sweep("s")
    ask(folder, "paused")
    assert {(run.state, run.note) for run in sweep.states().values()} == {("paused", "until isoloss resume s")}
    resume(folder)
    ask(folder, "cancelled", [sweep.trunk.key])
    states = sweep.states()
    assert states["trunk"].note == "isoloss resume s --run trunk puts it back"
    assert (states["branch"].state, states["branch"].note) == ("cancelled", "its trunk trunk is")
    resume(folder, [sweep.trunk.key])
    ask(folder, "cancelled", [sweep.branch.key])
    assert sweep.states()["trunk"].note == "all its branches are"
    sweep.end(sweep.branch, "finished")
    assert sweep.states()["branch"].state == "finished"
