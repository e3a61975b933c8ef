"""What each run of a sweep is doing, derived from the run folders alone: no launcher needs to be alive."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from llama.lease import current_owner
from llama.metric_names import VAL_LOSS
from llama.records import (
    CONFIG,
    FAILURE,
    Failure,
    Record,
    RunStatus,
    complete_steps,
    read_done,
    read_heartbeat,
    read_record,
    read_status,
)
from llama.sweep_index import SweepRun
from sweeps.control import Control, read_control
from sweeps.storage import SweepFolder

State = Literal["finished", "diverged", "running", "stopped", "failed", "waiting", "blocked", "paused", "cancelled"]


class RunState(Record):
    """One run as a person wants to see it."""

    name: str
    key: str
    is_trunk: bool
    state: State
    step: int | None
    tokens: int | None
    loss: float | None
    """Final validation loss, or the latest training loss of a run on its way."""
    tokens_per_second: float | None
    note: str | None
    """Why it is not finished, and what would help."""


class SweepStatus(Record):
    """All runs of a sweep, trunks included, in the order of its index."""

    sweep: str
    launcher: str | None
    """The live launcher, or None."""
    runs: list[RunState]

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(run.state for run in self.runs))


def sweep_status(sweep: SweepFolder) -> SweepStatus:
    """Read every run folder of the sweep."""
    states: dict[str, RunState] = {}
    owner, control = current_owner(sweep.folder), read_control(sweep.folder)
    # Trunks first: what a branch waits for, or is blocked by, is its trunk's state.
    for run in sorted(sweep.index.runs, key=lambda run: not run.is_trunk):
        branches = [other.key for other in sweep.index.runs if run.is_trunk and other.trunk == run.key]
        trunk = states.get(run.trunk or "")
        states[run.key] = _state(sweep, run, trunk, branches, control, is_launched=owner is not None)
    return SweepStatus(
        sweep=sweep.index.sweep,
        launcher=None if owner is None else f"process {owner.pid} on {owner.host}",
        runs=[states[run.key] for run in sweep.index.runs],
    )


def _state(
    sweep: SweepFolder,
    run: SweepRun,
    trunk: RunState | None,
    branches: list[str],
    control: Control,
    *,
    is_launched: bool,
) -> RunState:
    storage = sweep.storage
    folder = storage.run(run.key)
    status = read_status(folder)
    beat = read_heartbeat(folder)
    state: State = "waiting"
    note = None
    step = tokens = loss = speed = None
    if beat is not None:
        step, tokens, loss, speed = beat.step, beat.tokens, beat.loss, beat.tokens_per_second
    done = read_done(folder)
    if done is not None:
        step, tokens, loss = done.step, done.tokens, done.metrics.get(VAL_LOSS)
        state, note = done.outcome, done.reason
    elif status is not RunStatus.ABSENT and current_owner(folder) is not None:
        state = "running"
        if control.pauses(run.key):
            note = "asked to leave at a checkpoint"
    elif control.cancels(run.key):
        state, note = "cancelled", f"{_resume(sweep, run, whole=control.cancelled)} puts it back"
    elif trunk is not None and trunk.state == "cancelled":
        state, note = "cancelled", f"its trunk {trunk.name} is"
    elif branches and all(control.cancels(key) for key in branches):
        state, note = "cancelled", "all its branches are"
    elif status is RunStatus.FAILED:
        failure = read_record(folder / FAILURE, Failure)
        assert failure is not None  # the status says so
        state, note = "failed", f"attempt {failure.attempt}, {failure.kind}: {failure.message.splitlines()[0]}"
    elif trunk is not None and trunk.state in ("diverged", "failed"):
        state, note = "blocked", f"its trunk {trunk.name} {trunk.state}"
    elif run.is_trunk and all((storage.run(key) / CONFIG).exists() for key in branches):
        state, step = "finished", max(complete_steps(folder), default=step)
    elif control.pauses(run.key):
        state, note = "paused", f"until {_resume(sweep, run, whole=control.paused)}"
    elif status is RunStatus.STARTED and not is_launched:
        state, note = "stopped", "launch the sweep again to go on"
    return RunState(
        name=run.name,
        key=run.key,
        is_trunk=run.is_trunk,
        state=state,
        step=step,
        tokens=tokens,
        loss=loss,
        tokens_per_second=speed,
        note=note,
    )


def _resume(sweep: SweepFolder, run: SweepRun, *, whole: bool) -> str:
    """The command that takes back what was asked."""
    return f"isoloss resume {sweep.index.sweep}" + ("" if whole else f" --run {run.name}")
