"""The supervisor: runs a DAG of tasks to its end through an executor, whatever happens to attempts, workers and nodes.

It holds the queue and every decision; the executor only runs what it is told where it is told. Each task is in one state:

                     every need is done           a node has room
           WAITING ----------------------> READY ----------------> RUNNING ---- returned ----> DONE
            |    |                        | |  ^                   |     |
     a need |    | result                 | |  |    worth another  |     | not worth another attempt,
     failed |    | exists   result exists | |  |       attempt     |     | or the budget is spent
            v    v                        | |  |                   v     v
       BLOCKED  SKIPPED <-----------------+ |  +-- delay over -- RETRYING  FAILED
                                            |                                ^
                                            +-- no node has the means left --+

Order: the task with the longest estimated path to the end of the DAG first. What doesn't fit now reserves the node where it
fits first, and smaller tasks may use that node only if they are out of the way by then, so nothing starves.

Retries: preemptions and lost nodes say nothing of the task, and have a large budget. Crashes, deaths, hangs and want of
memory have a small one. A `UserError`, a diverged run and a lost lease would end the same again, and get none.

Results live with the caller, who says by `is_done` which exist: after the death of the driver the same call goes on.
"""

from __future__ import annotations

import heapq
import signal
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType
from typing import Any

from cluster.clock import Clock, MonotonicClock
from cluster.executor import Executor, Finished, Node
from cluster.graph import Graph
from cluster.placement import Ledger, Placement, fits_somewhere
from cluster.task import Failed, FailureKind, Outcome, Resources, Succeeded, Task
from llama.errors import UserError


class State(StrEnum):
    """Where a task stands; see the diagram above."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    BLOCKED = "blocked"


#: The arrows of the diagram. A state without arrows is final.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.WAITING: frozenset({State.READY, State.SKIPPED, State.BLOCKED}),
    State.READY: frozenset({State.RUNNING, State.SKIPPED, State.FAILED}),
    State.RUNNING: frozenset({State.DONE, State.RETRYING, State.FAILED}),
    State.RETRYING: frozenset({State.READY}),
    State.DONE: frozenset(),
    State.SKIPPED: frozenset(),
    State.FAILED: frozenset(),
    State.BLOCKED: frozenset(),
}

_HOPELESS = frozenset({FailureKind.USER_ERROR, FailureKind.NON_FINITE, FailureKind.FENCED})
_FAULTLESS = frozenset({FailureKind.PREEMPTED, FailureKind.NODE_LOST, FailureKind.HELD})


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How much is forgiven, and how often the supervisor looks."""

    failures: int = 2
    """Retries of one task after crashes, deaths, hangs and want of memory."""
    preemptions: int = 20
    """Retries of one task after preemptions and lost nodes."""
    longest_delay_seconds: float = 60.0
    """A task's first retry is immediate; each later one waits twice as long as the one before, from 1 second up to this."""
    poll_seconds: float = 0.5
    """Longest wait for an attempt to end before anything else is looked at."""
    watch_seconds: float = 2.0
    """Between two looks at the nodes and at each running task's sign of life."""
    cancel_seconds: float = 30.0
    """A cancelled attempt that has not ended by then is given up: its node, too, is beyond reach."""
    no_node_seconds: float = 600.0
    """With nothing running, a ready task that no live node could hold fails after this."""
    interrupt_seconds: float = 5.0
    """After Ctrl-C, the wait for the cancelled attempts to end."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A task came into a state."""

    seconds: float
    """On the supervisor's clock."""
    task: Task
    state: State
    attempt: int
    """Attempts begun so far."""
    node_id: str | None = None
    """Where, for RUNNING."""
    outcome: Outcome | None = None
    """What ended the attempt, for DONE, RETRYING and FAILED."""
    reason: str | None = None
    """Why, for RETRYING, FAILED and BLOCKED."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run of the supervisor ended. Each task is in exactly one of the first four."""

    done: Mapping[str, Any]
    """What each function returned, by task id."""
    skipped: tuple[str, ...]
    failed: Mapping[str, Failed]
    """The last failure, by task id."""
    blocked: Mapping[str, str]
    """By task id, the need that failed and why."""
    retries: int
    wall_seconds: float
    busy_core_seconds: float
    """Cores times seconds inside the tasks' functions, over all attempts."""
    cores: float
    """The most that the cluster had."""

    @property
    def ok(self) -> bool:
        return not self.failed and not self.blocked

    @property
    def utilisation(self) -> float:
        """Share of the cores' time that was spent inside the tasks' functions."""
        return self.busy_core_seconds / (self.cores * self.wall_seconds) if self.cores * self.wall_seconds else 0.0


@dataclass(kw_only=True)
class _Running:
    """An attempt under way."""

    task: Task
    number: int
    placement: Placement
    started: float
    verdict: Failed | None = None
    """Why it was cancelled, whatever its end will look like."""
    give_up: float = float("inf")
    """When a cancelled attempt is taken as ended."""


class Supervisor:
    """Runs tasks to their end. `run` once; build a new one to go on after an interruption."""

    def __init__(
        self,
        tasks: Iterable[Task],
        executor: Executor,
        *,
        is_done: Callable[[Task], bool] = lambda task: False,
        stalled: Callable[[Task], bool] = lambda task: False,
        on_event: Callable[[Event], None] = lambda event: None,
        policy: Policy = Policy(),
        clock: Clock | None = None,
    ) -> None:
        """`is_done` says whether a task's result exists: asked of every task first, and again just before each attempt.
        `stalled` says whether a running task has given no sign of life for too long. `on_event` sees every change of state.

        Raises:
            ValueError: the tasks are no DAG.
        """
        self._graph = Graph.of(tasks)
        self._executor = executor
        self._is_done = is_done
        self._stalled = stalled
        self._on_event = on_event
        self._policy = policy
        self._clock = clock or MonotonicClock()

        self._states = dict.fromkeys(self._graph.tasks, State.WAITING)
        self._counts = Counter(self._states.values())
        self._unmet = {id: len(task.needs) for id, task in self._graph.tasks.items()}
        self._rank = {id: rank for rank, id in enumerate(self._graph.tasks)}
        # Tasks that take the same wait in one queue: if its head has no room, none of it has.
        self._ready: dict[Resources, list[tuple[float, int, str]]] = {}
        self._retrying: list[tuple[float, str]] = []
        self._running: dict[str, _Running] = {}
        self._on_node: defaultdict[str, dict[str, _Running]] = defaultdict(dict)
        self._reserved: tuple[str, str] | None = None
        """The first task in line without room, and the node kept for it."""
        self._ledger = Ledger()
        self._looked = float("-inf")
        self._idle_since: float | None = None

        self._attempts: Counter[str] = Counter()
        self._forgiven: Counter[tuple[str, bool]] = Counter()
        self._values: dict[str, Any] = {}
        self._failures: dict[str, Failed] = {}
        self._blocked: dict[str, str] = {}
        self._busy_core_seconds = 0.0
        self._cores = 0.0

    @property
    def states(self) -> Mapping[str, State]:
        """The state of every task, by id; live."""
        return self._states

    def run(self) -> Summary:
        """Run every task whose result is missing, until each is in a final state.

        Ctrl-C and SIGTERM cancel what runs and raise `KeyboardInterrupt` and `SystemExit`; so does any error of a callback.

        Raises:
            UserError: a task asks for more than any node has, or there is no node.
        """
        started = self._clock.now()
        self._skip_what_exists()
        self._look_at_nodes()
        self._refuse_infeasible()
        self._queue_what_needs_nothing()
        with _sigterm_raises():
            try:
                while any(self._counts[state] for state in State if TRANSITIONS[state]):
                    self._step()
            except BaseException:
                self._abandon()
                raise
        return Summary(
            done=self._values,
            skipped=tuple(id for id, state in self._states.items() if state is State.SKIPPED),
            failed=self._failures,
            blocked=self._blocked,
            retries=self._forgiven.total(),
            wall_seconds=self._clock.now() - started,
            busy_core_seconds=self._busy_core_seconds,
            cores=self._cores,
        )

    def _step(self) -> None:
        now = self._clock.now()
        if now - self._looked >= self._policy.watch_seconds:
            self._look_at_nodes()
            self._look_at_running()
        while self._retrying and self._retrying[0][0] <= now:
            self._enqueue(heapq.heappop(self._retrying)[1])
        self._place_ready()
        self._fail_what_has_no_node()
        wait = self._policy.poll_seconds
        if self._retrying:
            wait = min(wait, max(0.0, self._retrying[0][0] - now))
        if any(self._counts[state] for state in (State.RUNNING, State.READY, State.RETRYING)):
            for finished in self._executor.poll(wait):
                self._end_attempt(finished)

    # -- the start --------------------------------------------------------------------------------------------------

    def _skip_what_exists(self) -> None:
        for task in self._graph.tasks.values():
            if self._is_done(task):
                self._move(task.id, State.SKIPPED)

    def _refuse_infeasible(self) -> None:
        nodes = self._ledger.nodes
        feasible: dict[Resources, bool] = {}
        for id, task in self._graph.tasks.items():
            if self._states[id] is State.SKIPPED:
                continue
            if task.resources not in feasible:
                feasible[task.resources] = fits_somewhere(task.resources, nodes)
            if not feasible[task.resources]:
                raise UserError(
                    f"task {id} asks for {task.resources}, but {_largest(nodes)}: ask for less, or add a node"
                )

    def _queue_what_needs_nothing(self) -> None:
        for id, state in list(self._states.items()):
            if state is State.SKIPPED:
                self._satisfy_dependents(id)
        for id, state in list(self._states.items()):
            if state is State.WAITING and self._unmet[id] == 0:
                self._enqueue(id)

    # -- moves ------------------------------------------------------------------------------------------------------

    def _move(self, id: str, state: State, **details: Any) -> None:
        before = self._states[id]
        if state not in TRANSITIONS[before]:
            raise AssertionError(f"task {id} can't go from {before} to {state}")
        self._states[id] = state
        self._counts[before] -= 1
        self._counts[state] += 1
        task = self._graph.tasks[id]
        self._on_event(Event(seconds=self._clock.now(), task=task, state=state, attempt=self._attempts[id], **details))

    def _enqueue(self, id: str) -> None:
        self._move(id, State.READY)
        resources = self._graph.tasks[id].resources
        heapq.heappush(self._ready.setdefault(resources, []), (-self._graph.path_seconds[id], self._rank[id], id))

    def _satisfy_dependents(self, id: str) -> list[str]:
        """The dependents for which this was the last need."""
        complete = []
        for dependent in self._graph.dependents[id]:
            self._unmet[dependent] -= 1
            if self._unmet[dependent] == 0 and self._states[dependent] is State.WAITING:
                complete.append(dependent)
        return complete

    def _finish(self, id: str, state: State, **details: Any) -> None:
        """Into DONE or SKIPPED, which lets dependents go."""
        self._move(id, state, **details)
        for dependent in self._satisfy_dependents(id):
            self._enqueue(dependent)

    def _fail(self, id: str, failure: Failed) -> None:
        self._failures[id] = failure
        reason = f"{failure.kind}: {failure.message}"
        self._move(id, State.FAILED, outcome=failure, reason=reason)
        doomed = list(self._graph.dependents[id])
        for dependent in doomed:  # grows while it is walked
            if self._states[dependent] is State.WAITING:
                self._blocked[dependent] = f"needs {id}, which failed ({reason})"
                self._move(dependent, State.BLOCKED, reason=self._blocked[dependent])
                doomed.extend(self._graph.dependents[dependent])

    # -- placing ----------------------------------------------------------------------------------------------------

    def _place_ready(self) -> None:
        """Start ready tasks, longest path first, until nothing more fits."""
        without_room: list[Resources] = []
        while waiting := [key for key, queue in self._ready.items() if queue and key not in without_room]:
            resources = min(waiting, key=lambda key: self._ready[key][0])
            task = self._graph.tasks[self._ready[resources][0][2]]
            placement = self._ledger.find(resources)
            if placement is not None and without_room:
                placement = self._beside_reservation(self._ready[without_room[0]][0][2], task, placement)
            if placement is None:
                without_room.append(resources)
                continue
            heapq.heappop(self._ready[resources])
            if self._is_done(task):
                self._finish(task.id, State.SKIPPED)
            else:
                self._start(task, placement)

    def _beside_reservation(self, first: str, task: Task, placement: Placement) -> Placement | None:
        """The placement if it does not delay `first`, the first in line, for which there is no room now; another; or none.

        EASY backfilling (Lifka 1995). The node stays reserved for `first` until it starts.
        """
        needed = self._graph.tasks[first].resources
        start = None
        if self._reserved is not None and self._reserved[0] == first:
            start = self._ledger.fits_at(needed, self._reserved[1], self._expected_ends(self._reserved[1]))
        if start is None:
            starts = {
                node.id: at
                for node in self._ledger.nodes
                if (at := self._ledger.fits_at(needed, node.id, self._expected_ends(node.id))) is not None
            }
            if not starts:
                return placement
            node_id = min(starts, key=lambda id: starts[id])
            self._reserved, start = (first, node_id), starts[node_id]
        assert self._reserved is not None
        if placement.node_id != self._reserved[1] or self._clock.now() + task.estimated_seconds <= start:
            return placement
        return self._ledger.find(task.resources, excluding=self._reserved[1])

    def _expected_ends(self, node_id: str) -> list[tuple[float, Placement]]:
        now = self._clock.now()
        return [
            (max(now, running.started + running.task.estimated_seconds), running.placement)
            for running in self._on_node[node_id].values()
        ]

    def _start(self, task: Task, placement: Placement) -> None:
        self._attempts[task.id] += 1
        number = self._attempts[task.id]
        self._ledger.take(placement)
        running = _Running(task=task, number=number, placement=placement, started=self._clock.now())
        self._running[task.id] = self._on_node[placement.node_id][task.id] = running
        self._move(task.id, State.RUNNING, node_id=placement.node_id)
        self._executor.submit(task, number, placement.node_id)

    def _fail_what_has_no_node(self) -> None:
        """Nothing runs and nothing fits: nodes were lost. They may come back; after a while, don't wait any longer."""
        if self._running or not self._counts[State.READY]:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = self._clock.now()
        if self._clock.now() - self._idle_since < self._policy.no_node_seconds:
            return
        message = (
            f"no live node could hold it for {self._policy.no_node_seconds:g} seconds; {_largest(self._ledger.nodes)}"
        )
        for queue in self._ready.values():
            for _, _, id in queue:
                self._fail(id, Failed(kind=FailureKind.NODE_LOST, message=message))
            queue.clear()

    # -- ends -------------------------------------------------------------------------------------------------------

    def _end_attempt(self, finished: Finished) -> None:
        running = self._running.get(finished.task_id)
        if running is None or running.number != finished.attempt:
            return  # an attempt that was given up has ended after all
        del self._running[finished.task_id], self._on_node[running.placement.node_id][finished.task_id]
        self._ledger.give_back(running.placement)
        self._busy_core_seconds += finished.outcome.seconds * running.task.resources.cpus
        outcome = finished.outcome
        if isinstance(outcome, Succeeded):  # also one that was cancelled a moment too late
            self._values[running.task.id] = outcome.value
            self._finish(running.task.id, State.DONE, outcome=outcome)
        else:
            self._retry_or_fail(running.task.id, running.verdict or outcome)

    def _retry_or_fail(self, id: str, failure: Failed) -> None:
        faultless = failure.kind in _FAULTLESS
        if faultless:
            self._look_at_nodes()  # or the retry may go where the attempt was lost
        budget = self._policy.preemptions if faultless else self._policy.failures
        if failure.kind in _HOPELESS or self._forgiven[id, faultless] >= budget:
            self._fail(id, failure)
            return
        retries = self._forgiven[id, True] + self._forgiven[id, False]
        self._forgiven[id, faultless] += 1
        delay = min(2.0 ** (retries - 1), self._policy.longest_delay_seconds) if retries else 0.0
        self._move(id, State.RETRYING, outcome=failure, reason=f"{failure.kind}: {failure.message}")
        heapq.heappush(self._retrying, (self._clock.now() + delay, id))

    # -- the watch --------------------------------------------------------------------------------------------------

    def _look_at_nodes(self) -> None:
        self._looked = self._clock.now()
        self._ledger.set_nodes(self._executor.capacity())
        self._cores = max(self._cores, sum(node.cpus for node in self._ledger.nodes))

    def _look_at_running(self) -> None:
        now = self._clock.now()
        live = {node.id for node in self._ledger.nodes}
        for running in list(self._running.values()):
            if running.placement.node_id not in live:
                message = f"node {running.placement.node_id} left the cluster"
                self._cancel(running, Failed(kind=FailureKind.NODE_LOST, message=message), wait_seconds=0.0)
            elif running.verdict is None and self._stalled(running.task):
                message = f"no sign of life; cancelled after {now - running.started:.0f} seconds"
                self._cancel(running, Failed(kind=FailureKind.HANG, message=message), self._policy.cancel_seconds)
            if running.verdict is not None and running.give_up <= now:
                self._end_attempt(Finished(task_id=running.task.id, attempt=running.number, outcome=running.verdict))

    def _cancel(self, running: _Running, verdict: Failed, wait_seconds: float) -> None:
        running.verdict = verdict
        running.give_up = self._clock.now() + wait_seconds
        self._executor.cancel(running.task.id, running.number)

    def _abandon(self) -> None:
        """Cancel what runs, and give it a moment to be gone."""
        until = self._clock.now() + self._policy.interrupt_seconds
        for running in self._running.values():
            self._executor.cancel(running.task.id, running.number)
        while self._running and self._clock.now() < until:
            for finished in self._executor.poll(self._policy.poll_seconds):
                self._running.pop(finished.task_id, None)


def _largest(nodes: Iterable[Node]) -> str:
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=None)
    if largest is None:
        return "no node is alive"
    return f"the largest node has {largest.cpus:g} CPU and {largest.gpus} GPU"


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM raises `SystemExit`, so that what runs is cancelled first. Signals belong to the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
