"""What each run of a sweep is doing and why, derived from its files alone: no launcher needs to be alive."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama.errors import UserError
from llama.lease import Tenure, current_owner, tenures
from llama.metric_names import VAL_LOSS
from llama.records import (
    CONFIG,
    FAILURE,
    Failure,
    Heartbeat,
    Record,
    RunStatus,
    complete_steps,
    read_checkpoint_mark,
    read_done,
    read_heartbeat,
    read_record,
    read_status,
)
from llama.sweep_index import SweepRun
from sweeps.control import Request, asked_of
from sweeps.storage import Storage, SweepFolder
from sweeps.watching.law_follower import look
from sweeps.words import count, duration, human

State = Literal[
    "finished", "diverged", "running", "retrying", "paused", "cancelled", "stopped", "failed", "waiting", "blocked"
]

#: A run at work writes a heartbeat about once a second; one that is silent for so long compiles, validates, or hangs.
SILENT_SECONDS = 60.0

#: Nothing runs though a launcher is there: it measures speeds, or its first processes start.
NOTHING_BEGUN = "waits for its launcher, which measures or starts: nothing is at work yet"

#: What would help a failed run before it is launched again, by `cluster.task.FailureKind`.
ADVICE = {
    "user_error": "mend what it names, then launch again",
    "out_of_memory": "lower micro_batch, set activation_checkpointing: selective, or let fewer runs go at once "
    "(resources), then launch again",
    "crashed": "mend the cause, then launch again",
    "worker_died": "its process was killed, or memory ran out (see the kernel's log): launch again",
    "hang": "it gave no sign of life: launch again",
    "node_lost": "launch again when its machine is back",
    "preempted": "launch again when there are machines",
    "held": "another process holds it: see that it ends, then launch again",
    "fenced": "another process took it over: see that it ends, then launch again",
    "not_gathered": "not all of its processes started in time: launch again when its nodes have room",
}


class ProjectedLoss(Record):
    """What the law through the sweep's finished runs says of this one's final loss."""

    loss: float
    plus_minus: float
    """Half of the 95 % interval."""


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
    attempts: int = 0
    """Times that a process took it up; a trunk is taken up once a stretch."""
    projected: ProjectedLoss | None = None
    """Of a run that may still finish."""
    suspicions: tuple[str, ...] = ()
    """What speaks against a finished run's numbers; fits use it all the same."""


class SweepStatus(Record):
    """All runs of a sweep, trunks included, in the order of its index."""

    sweep: str
    launcher: str | None
    """The live launcher, or None."""
    runs: list[RunState]
    law: str | None = None
    """`law so far: 14 runs`, or that there is none yet; None where it was not looked for."""
    law_missing: str | None = None
    """What the runs lack before they identify a law."""

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(run.state for run in self.runs))


@dataclass(frozen=True, kw_only=True)
class _Trunk:
    """What a branch has to know of its trunk."""

    state: RunState
    checkpoints: frozenset[int]
    """Tokens at each complete one."""

    @property
    def tokens(self) -> int:
        return max(self.state.tokens or 0, *self.checkpoints, 0)


def sweep_status(sweep: SweepFolder) -> SweepStatus:
    """Read every run folder of the sweep, and fit the finished ones."""
    reader = _Reader(sweep)
    states: dict[str, RunState] = {}
    trunks: dict[str, _Trunk] = {}
    # Trunks first: what a branch waits for, or is blocked by, is its trunk's state.
    for run in sorted(sweep.index.runs, key=lambda run: not run.is_trunk):
        states[run.key] = reader.state(run, trunks.get(run.trunk or ""))
        if run.is_trunk:
            trunks[run.key] = _Trunk(state=states[run.key], checkpoints=_checkpoint_tokens(sweep.storage, run.key))
    _say_who_waits_for_room(states, reader.ready)
    outlook = look(sweep.folder)
    for key, state in states.items():
        projected = outlook.projections.get(key)
        changes: dict[str, object] = {"suspicions": outlook.suspicions.get(key, ())}
        if projected is not None:
            changes["projected"] = ProjectedLoss(loss=projected.loss, plus_minus=projected.plus_minus)
        states[key] = state.model_copy(update=changes)
    return SweepStatus(
        sweep=sweep.index.sweep,
        launcher=reader.launcher,
        runs=[states[run.key] for run in sweep.index.runs],
        law=str(outlook.law),
        law_missing=None if outlook.law is None else outlook.law.why_not,
    )


def _checkpoint_tokens(storage: Storage, key: str) -> frozenset[int]:
    folder = storage.run(key)
    steps = complete_steps(folder)
    mark = read_checkpoint_mark(folder, steps[-1]) if steps else None
    return frozenset() if mark is None else frozenset(step * mark.tokens // mark.step for step in steps if mark.step)


def _say_who_waits_for_room(states: dict[str, RunState], ready: Collection[str]) -> None:
    running = sum(state.state == "running" for state in states.values())
    for key in ready:
        others = len(ready) - 1
        wait = f", {count(others, 'other')} {'waits' if others == 1 else 'wait'} too" if others else ""
        note = f"waits for room: {running} at work{wait}" if running else NOTHING_BEGUN
        states[key] = states[key].model_copy(update={"note": note})


class _Reader:
    """Reads runs of one sweep, at one time."""

    def __init__(self, sweep: SweepFolder) -> None:
        self._storage, self._name, self._now = sweep.storage, sweep.index.sweep, time.time()
        owner = current_owner(sweep.folder)
        self.launcher = None if owner is None else owner.name
        self._branches = sweep.index.branches_by_trunk()
        self._of_sweep, self._of_runs = asked_of(sweep.folder)
        self.ready: list[str] = []
        """Keys of the runs read so far that lack nothing but room."""

    def state(self, run: SweepRun, trunk: _Trunk | None) -> RunState:
        try:
            return self._read(run, trunk)
        except UserError as error:  # a damaged file
            return self._made(run, "failed", note=str(error), step=None)

    def _read(self, run: SweepRun, trunk: _Trunk | None) -> RunState:
        folder = self._storage.run(run.key)
        done = read_done(folder)
        if done is not None:
            loss = done.metrics.get(VAL_LOSS)
            return self._made(run, done.outcome, note=done.reason, step=done.step, tokens=done.tokens, loss=loss)
        beat = read_heartbeat(folder)
        state, note = self._unfinished(run, trunk, beat)
        step, tokens = (None, None) if beat is None else (beat.step, beat.tokens)
        if state == "finished":
            step = max(complete_steps(folder), default=step)
        return self._made(
            run,
            state,
            note=note,
            step=step,
            tokens=tokens,
            loss=None if beat is None else beat.loss,
            tokens_per_second=None if beat is None else beat.tokens_per_second,
        )

    def _made(self, run: SweepRun, state: State, *, note: str | None, step: int | None, **more: object) -> RunState:
        fields = {"tokens": None, "loss": None, "tokens_per_second": None} | more
        attempts = sum(1 for _ in (self._storage.run(run.key) / "lease").glob("[0-9]*.json"))
        return RunState.model_validate(
            {"name": run.name, "key": run.key, "is_trunk": run.is_trunk, "state": state, "note": note, "step": step}
            | {"attempts": attempts}
            | fields
        )

    def _unfinished(self, run: SweepRun, trunk: _Trunk | None, beat: Heartbeat | None) -> tuple[State, str | None]:
        """State and reason of a run without DONE, the strongest evidence first."""
        folder, asked = self._storage.run(run.key), self._asked(run)
        status = read_status(folder)
        failure = read_record(folder / FAILURE, Failure) if status is RunStatus.FAILED else None
        if status is not RunStatus.ABSENT and current_owner(folder) is not None:
            return "running", self._running_note(failure, beat, asked)
        if run.censored:
            return "stopped", "censored: its tuning study stopped it, and no fit takes it"
        needed = self._branches.get(run.key, [])
        if run.is_trunk and self._has_served(run, needed):
            return "finished", None
        if asked is not None:
            return asked.wish, self._asked_note(run, asked)
        if needed and all(self._is_cancelled(branch) for branch in needed):
            return "cancelled", "all its branches are"
        if failure is not None:
            return self._failed(failure, folder)
        if trunk is not None and not self._has_forked(run, trunk):
            if trunk.state.state == "cancelled":
                return "cancelled", f"its trunk {trunk.state.name} is"
            if trunk.state.state in ("diverged", "failed"):
                return "blocked", f"its trunk {trunk.state.name} {trunk.state.state}"
            if trunk.state.state == "paused":
                return "waiting", f"{_waits_for(run, trunk)}, which is paused"
            if self.launcher is not None:
                return "waiting", _waits_for(run, trunk)
        if self.launcher is not None:
            died = self._death(folder) if status is RunStatus.STARTED else None
            if died is not None:
                return "waiting", f"{died}; its launcher tries it again"
            self.ready.append(run.key)
            return "waiting", None
        if status is RunStatus.STARTED:
            died = self._death(folder)
            again = "launch the sweep again to go on"
            return "stopped", again if died is None else f"{died}; {again}"
        return "waiting", "no launcher is at work"

    def _asked(self, run: SweepRun) -> Request | None:
        """What a person asked that holds for this run; a cancelled sweep's runs are cancelled whatever was asked of them."""
        of_run = self._of_runs.get(run.key)
        both = [request for request in (self._of_sweep, of_run) if request is not None]
        return next((request for request in both if request.wish == "cancelled"), both[0] if both else None)

    def _has_served(self, trunk: SweepRun, branches: list[SweepRun]) -> bool:
        """Whether every branch that is not cancelled has begun, or finds the checkpoint that it forks from."""
        wanted = [branch for branch in branches if not self._is_cancelled(branch)]
        begun = [branch for branch in wanted if (self._storage.run(branch.key) / CONFIG).exists()]
        if len(begun) == len(wanted):
            return bool(wanted) or not branches
        forks = _checkpoint_tokens(self._storage, trunk.key)
        return all(branch in begun or branch.fork_tokens in forks for branch in wanted)

    def _is_cancelled(self, branch: SweepRun) -> bool:
        asked = self._of_runs.get(branch.key)
        return asked is not None and asked.wish == "cancelled"

    def _asked_note(self, run: SweepRun, asked: Request) -> str:
        who = f" by {asked.by}" if asked.by else ""
        which = "" if asked is self._of_sweep else f" --run {run.name}"
        ago = duration(max(0.0, self._now - asked.unix_ms / 1000))
        return f"{asked.wish}{who} {ago} ago: isoloss resume {self._name}{which} lets it go on"

    def _running_note(self, failure: Failure | None, beat: Heartbeat | None, asked: Request | None) -> str | None:
        parts = []
        if asked is not None:
            parts.append(f"is asked to leave: {asked.wish}" + (f" by {asked.by}" if asked.by else ""))
        if failure is not None:
            parts.append(f"attempt {failure.attempt + 1}, after {_words(failure)}")
        silent = 0.0 if beat is None else self._now - beat.unix_ms / 1000
        if silent > SILENT_SECONDS:
            parts.append(f"no sign of life for {duration(silent)}")
        return "; ".join(parts) or None

    def _failed(self, failure: Failure, folder: Path) -> tuple[State, str]:
        said = f"attempt {failure.attempt}, {_words(failure)}"
        if failure.final:
            advice = ADVICE.get(failure.kind, "mend the cause, then launch again")
            kept = "; it goes on from its last checkpoint" if complete_steps(folder) else ""
            return "failed", f"{said}: {advice}{kept}"
        if self.launcher is not None:
            return "retrying", f"{said}; another attempt follows"
        return "stopped", f"{said}, and its launcher ended: launch the sweep again to go on"

    def _has_forked(self, run: SweepRun, trunk: _Trunk) -> bool:
        """Whether the checkpoint that a branch starts from is there, or its own folder."""
        return run.fork_tokens in trunk.checkpoints or (self._storage.run(run.key) / CONFIG).exists()

    def _death(self, folder: Path) -> str | None:
        """Who died at a run, where its last owner did not leave in good order."""
        held = tenures(folder)
        return death_words(held[-1]) if held and held[-1].end == "died" else None


def death_words(tenure: Tenure) -> str:
    who = "its process" if tenure.owner is None else tenure.owner.name
    return f"{who} died at it"


def _words(failure: Failure) -> str:
    return f"{failure.kind}: {next(iter(failure.message.splitlines()), '')}"


def _waits_for(run: SweepRun, trunk: _Trunk) -> str:
    if run.fork_tokens is None:
        return f"waits for its trunk {trunk.state.name}"
    return f"waits for {trunk.state.name} to reach {human(run.fork_tokens)} tokens (now at {human(trunk.tokens)})"
