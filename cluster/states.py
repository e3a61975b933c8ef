"""What the supervisor says and is told: states and the events that lead into them, its policy, orders, and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cluster.task import Failed, Outcome, Task


class State(StrEnum):
    """Where a task stands; see the diagram in `cluster.supervisor`."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    PAUSED = "paused"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"


#: The arrows of that diagram.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset({State.READY, State.SKIPPED, State.BLOCKED, State.CANCELLED}),
    State.READY: frozenset({State.RUNNING, State.SKIPPED, State.FAILED, State.PAUSED, State.CANCELLED}),
    State.RUNNING: frozenset({State.DONE, State.RETRYING, State.FAILED, State.PAUSED, State.CANCELLED}),
    State.RETRYING: frozenset({State.READY, State.CANCELLED}),
    State.PAUSED: frozenset({State.READY, State.CANCELLED}),
    State.DONE: frozenset(),
    State.SKIPPED: frozenset(),
    State.FAILED: frozenset(),
    State.BLOCKED: frozenset({State.WAITING}),
    State.CANCELLED: frozenset({State.WAITING}),
}

#: Once every task is in one of these, the supervisor is at its end.
ENDED = frozenset({State.DONE, State.SKIPPED, State.FAILED, State.BLOCKED, State.CANCELLED})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How much is forgiven, and how often the supervisor looks.

    Budgets are of failures in a row: after an attempt that left more behind than any before it (`progress` of the supervisor:
    a later checkpoint), a task has them whole again, and its next retry is immediate. So a month's run survives a death a day.
    """

    failures: int = 2
    """Retries of one task after crashes, deaths, hangs and want of memory, none of which got further than any before."""
    preemptions: int = 20
    """The same after preemptions, lost nodes and lost leases."""
    longest_delay_seconds: float = 60.0
    """A task's first retry is immediate; each later one waits twice as long as the one before, from 1 second up to this."""
    poll_seconds: float = 0.5
    """Longest wait for an attempt to end before anything else is looked at."""
    watch_seconds: float = 2.0
    """Between two looks at the nodes, at each running task's sign of life, and at what people ask for."""
    leave_seconds: float = 120.0
    """A paused attempt that has not written its checkpoint and left by then is killed."""
    cancel_seconds: float = 30.0
    """A killed attempt that has not ended by then is given up: its node, too, is beyond reach."""
    no_node_seconds: float = 600.0
    """With nothing running, a ready task that no live node could hold fails after this, or sooner if no other can come."""
    interrupt_seconds: float = 5.0
    """After Ctrl-C or SIGTERM, how long what runs has to write a checkpoint and leave."""
    notice_seconds: float = 45.0
    """The same after SIGUSR1, which batch systems send well before they kill."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What people ask for now, by task id. Tasks that are done or failed are passed over, as are ids of none; one that was
    cancelled before and isn't any more is taken up again.
    """

    paused: frozenset[str] = frozenset()
    cancelled: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Event:
    """A task came into a state."""

    seconds: float
    """On the supervisor's clock."""
    task: Task
    state: State
    attempt: int
    """Attempts begun so far."""
    node_ids: tuple[str, ...] = ()
    """Where, for RUNNING: a node for each member."""
    outcome: Outcome | None = None
    """What ended the attempt, for DONE, RETRYING, FAILED, and PAUSED or CANCELLED from RUNNING."""
    reason: str | None = None
    """Why, for RETRYING, FAILED and BLOCKED."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run of the supervisor ended. Each task is in exactly one of the first five."""

    done: Mapping[str, Any]
    """What each function returned, by task id."""
    skipped: tuple[str, ...]
    failed: Mapping[str, Failed]
    """The last failure, by task id."""
    blocked: Mapping[str, str]
    """By task id, the failed or cancelled task that all began with; a need of a need, maybe."""
    cancelled: tuple[str, ...]
    retries: int
    wall_seconds: float
    running_seconds: float
    """Of these, with at least one attempt under way."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed: what was cancelled, or blocked by that alone, is as people wanted it."""
        return not self.failed
