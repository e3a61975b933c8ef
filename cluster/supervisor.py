"""The supervisor: runs a DAG of tasks to its end through an executor, whatever happens to attempts, workers and nodes.

It holds every decision; the executor only runs what it is told where it is told. Each task is in one state:

    WAITING ---- every need is done ---> READY ---- a node has room ---> RUNNING ---- it returned ---> DONE

    WAITING ---- its result exists ---> SKIPPED <--- its result exists ---- READY
    WAITING ---- a need failed, is blocked or was cancelled ---> BLOCKED

    RUNNING ---- worth another attempt ---> RETRYING ---- the delay is over ---> READY
    RUNNING ---- not worth one, or the budget is spent ---> FAILED <--- no node has the means left ---- READY

    RUNNING ---- paused: it wrote a checkpoint and left ---> PAUSED <--- paused ---- READY
    PAUSED ---- resumed ---> READY

    WAITING, READY, RUNNING, RETRYING, PAUSED ---- cancelled ---> CANCELLED
    CANCELLED ---- resumed before all has ended ---> WAITING
    BLOCKED ---- the cancelled task that it needs was resumed ---> WAITING

A RETRYING task that is paused is so once its delay is over. What is cancelled, and what is BLOCKED only by that, is no failure.

Order and room are the queue's (`cluster.queue`): longest path first, large tasks and gangs by reservation, nothing starves.

Retries: preemptions, lost nodes, gangs that did not gather and leases that others hold or took say nothing of the task, and
have a large budget. Crashes, deaths, hangs and want of memory have a small one. A `UserError` and a diverged run would end the
same again, and get none. Pausing costs nothing of either, and a task that got further than ever before has both anew.

Results live with the caller, who says by `is_done` which exist: after the death of the driver the same call goes on.
"""

from __future__ import annotations

import heapq
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cluster.admission import largest, require_feasible
from cluster.attempts import Attempt, Attempts, Intent
from cluster.clock import Clock, MonotonicClock
from cluster.executor import Executor, Finished
from cluster.graph import Graph
from cluster.placement import Ledger, Placement
from cluster.queue import ReadyQueue
from cluster.signals import signals_exit
from cluster.states import ENDED, TRANSITIONS, Event, Orders, Policy, State, Summary
from cluster.task import Failed, FailureKind, Succeeded, Task

_HOPELESS = frozenset({FailureKind.USER_ERROR, FailureKind.NON_FINITE})
_FAULTLESS = frozenset(
    {
        FailureKind.PREEMPTED,
        FailureKind.NODE_LOST,
        FailureKind.HELD,
        FailureKind.FENCED,
        FailureKind.NOT_GATHERED,
    }
)
#: How an attempt ends that was asked to leave: as it should, or by the signal itself, since it had not begun to listen.
_LEFT = frozenset({FailureKind.PREEMPTED, FailureKind.WORKER_DIED})


class Supervisor:
    """Runs tasks to their end. `run` once; build a new one to go on after an interruption."""

    def __init__(
        self,
        tasks: Iterable[Task],
        executor: Executor,
        *,
        is_done: Callable[[Task], bool] = lambda task: False,
        stalled: Callable[[Task], bool] = lambda task: False,
        progress: Callable[[Task], float] = lambda task: 0.0,
        orders: Callable[[], Orders] = Orders,
        on_event: Callable[[Event], None] = lambda event: None,
        policy: Policy | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`is_done` says whether a task's result exists: asked of every task first, and again just before each attempt.
        `stalled` says whether a running task has given no sign of life for too long, `orders` what people ask for: both are
        asked every few seconds. `progress` says how much of a task is safe from a failure (its last checkpoint), in any unit:
        asked before the first attempt and after each that failed. `on_event` sees every change of state.

        Raises:
            ValueError: the tasks are no DAG.
        """
        self._graph = Graph.of(tasks)
        self._executor = executor
        self._is_done = is_done
        self._stalled = stalled
        self._progress = progress
        self._orders = orders
        self._on_event = on_event
        self._policy = policy or Policy()
        self._clock = clock or MonotonicClock()

        self._states = dict.fromkeys(self._graph.tasks, State.WAITING)
        self._counts = Counter(self._states.values())
        self._unmet = {id: len(task.needs) for id, task in self._graph.tasks.items()}
        self._ledger = Ledger()
        self._running = Attempts()
        self._queue = ReadyQueue(self._graph, self._ledger, self._running)
        self._retrying: list[tuple[float, str]] = []
        self._paused: frozenset[str] = frozenset()
        self._looked = float("-inf")
        self._idle_since: float | None = None

        self._attempts: Counter[str] = Counter()
        self._forgiven: Counter[tuple[str, bool]] = Counter()
        """Retries by task, and by whether they were faultless, since the task last got further."""
        self._furthest: dict[str, float] = {}
        self._retries = 0
        self._values: dict[str, Any] = {}
        self._failures: dict[str, Failed] = {}
        self._blocked: dict[str, str] = {}
        self._running_since: float | None = None
        self._running_seconds = 0.0

    @property
    def states(self) -> Mapping[str, State]:
        """The state of every task, by id; live."""
        return self._states

    def run(self) -> Summary:
        """Run every task whose result is missing, until each has ended.

        Ctrl-C, SIGTERM and SIGUSR1 ask what runs to leave, and raise `KeyboardInterrupt` and `SystemExit`; so does any error
        of a callback.

        Raises:
            UserError: a task asks for more than the nodes have, or there is no node.
        """
        started = self._clock.now()
        with signals_exit() as asked:
            try:
                self._start()
                while self._is_open():
                    self._step()
                    if not self._is_open():  # somebody may have resumed what was cancelled since the last look
                        self._heed_orders()
            except BaseException:
                has_notice = asked.number is signal.SIGUSR1
                self._abandon(self._policy.notice_seconds if has_notice else self._policy.interrupt_seconds)
                raise
        ended = {state: tuple(id for id, its in self._states.items() if its is state) for state in State}
        return Summary(
            done=self._values,
            skipped=ended[State.SKIPPED],
            failed=self._failures,
            blocked=self._blocked,
            cancelled=ended[State.CANCELLED],
            retries=self._retries,
            wall_seconds=self._clock.now() - started,
            running_seconds=self._running_seconds,
        )

    def _is_open(self) -> bool:
        return any(self._counts[state] for state in State if state not in ENDED)

    def _start(self) -> None:
        self._skip_what_exists()
        self._heed_orders()
        self._look_at_nodes()
        open_tasks = (task for id, task in self._graph.tasks.items() if self._states[id] not in ENDED)
        require_feasible(((f"task {task.id}", task.resources) for task in open_tasks), self._ledger.nodes)
        self._queue_what_needs_nothing()

    def _step(self) -> None:
        now = self._clock.now()
        if now - self._looked >= self._policy.watch_seconds:
            self._looked = now
            self._look_at_nodes()
            self._look_at_running()
            self._heed_orders()
        while self._retrying and self._retrying[0][0] <= now:
            _, id = heapq.heappop(self._retrying)
            if self._states[id] is State.RETRYING:  # not cancelled meanwhile
                self._enqueue(id)
        self._place_ready()
        self._fail_what_has_no_node()
        wait = self._policy.poll_seconds
        if self._retrying:
            wait = min(wait, max(0.0, self._retrying[0][0] - now))
        if any(self._counts[state] for state in (State.RUNNING, State.READY, State.RETRYING)):
            for finished in self._executor.poll(wait):
                self._end_attempt(finished)
        elif self._counts[State.PAUSED]:  # nothing can happen before the next look
            self._executor.poll(self._policy.watch_seconds)

    # -- the start --------------------------------------------------------------------------------------------------

    def _skip_what_exists(self) -> None:
        for task in self._graph.tasks.values():
            if self._is_done(task):
                self._move(task.id, State.SKIPPED)

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
        if id in self._paused:
            self._move(id, State.PAUSED)
        else:
            self._queue.push(id)

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
        self._block_dependents(id, f"needs {id}, which failed ({reason})")

    def _block_dependents(self, id: str, reason: str) -> None:
        doomed = list(self._graph.dependents[id])
        for dependent in doomed:  # grows while it is walked
            if self._states[dependent] is State.WAITING:
                self._blocked[dependent] = id
                self._move(dependent, State.BLOCKED, reason=reason)
                doomed.extend(self._graph.dependents[dependent])

    # -- placing ----------------------------------------------------------------------------------------------------

    def _place_ready(self) -> None:
        """Start ready tasks until nothing more fits."""
        for task, placement in self._queue.startable(self._clock.now()):
            if self._is_done(task):
                self._finish(task.id, State.SKIPPED)
            else:
                self._begin(task, placement)

    def _begin(self, task: Task, placement: Placement) -> None:
        number = self._attempts[task.id] + 1
        if number == 1:
            self._furthest[task.id] = self._progress(task)
        attempt = Attempt(task=task, number=number, placement=placement, started=self._clock.now())
        self._executor.submit(task, number, attempt.node_ids)
        self._attempts[task.id] = number
        self._ledger.take(placement)
        if not self._running:
            self._running_since = self._clock.now()
        self._running.add(attempt)
        self._move(task.id, State.RUNNING, node_ids=attempt.node_ids)

    def _fail_what_has_no_node(self) -> None:
        """Nothing runs and nothing fits: nodes were lost. They may come back; after a while, don't wait any longer."""
        if self._running or not self._counts[State.READY]:
            self._idle_since = None
            return
        if self._idle_since is None:
            self._idle_since = self._clock.now()
        patience_seconds = min(self._policy.no_node_seconds, self._executor.lost_node_seconds)
        if self._clock.now() - self._idle_since < patience_seconds:
            return
        message = f"no live node could hold it for {patience_seconds:g} seconds; {largest(self._ledger.nodes)}"
        for id in [id for id, state in self._states.items() if state is State.READY]:
            self._queue.remove(id)
            self._fail(id, Failed(kind=FailureKind.NODE_LOST, message=message))

    # -- ends -------------------------------------------------------------------------------------------------------

    def _end_attempt(self, finished: Finished) -> None:
        attempt = self._attempt_of(finished)
        if attempt is None:
            return
        self._running.remove(attempt)
        if not self._running and self._running_since is not None:
            self._running_seconds += self._clock.now() - self._running_since
        self._ledger.give_back(attempt.placement)
        outcome, id = finished.outcome, attempt.task.id
        if isinstance(outcome, Succeeded):  # also one that was killed a moment too late
            self._values[id] = outcome.value
            self._finish(id, State.DONE, outcome=outcome)
        elif attempt.intent is Intent.CANCEL:
            self._cancel(id, outcome=outcome)
        elif attempt.intent is Intent.PAUSE and outcome.kind in _LEFT:
            self._move(id, State.PAUSED, outcome=outcome)
            if id not in self._paused:  # it was resumed meanwhile
                self._enqueue(id)
        else:
            self._retry_or_fail(id, attempt.verdict or outcome)

    def _attempt_of(self, finished: Finished) -> Attempt | None:
        """None where one that was given up has ended after all."""
        attempt = self._running.get(finished.task_id)
        return attempt if attempt is not None and attempt.number == finished.attempt else None

    def _retry_or_fail(self, id: str, failure: Failed) -> None:
        faultless = failure.kind in _FAULTLESS
        if faultless:
            self._look_at_nodes()  # or the retry may go where the attempt was lost
        if (progress := self._progress(self._graph.tasks[id])) > self._furthest[id]:
            self._furthest[id] = progress
            self._forgiven[id, True] = self._forgiven[id, False] = 0
        budget = self._policy.preemptions if faultless else self._policy.failures
        if failure.kind in _HOPELESS or self._forgiven[id, faultless] >= budget:
            self._fail(id, failure)
            return
        retries = self._forgiven[id, True] + self._forgiven[id, False]
        self._forgiven[id, faultless] += 1
        self._retries += 1
        delay = min(2.0 ** (retries - 1), self._policy.longest_delay_seconds) if retries else 0.0
        self._move(id, State.RETRYING, outcome=failure, reason=f"{failure.kind}: {failure.message}")
        heapq.heappush(self._retrying, (self._clock.now() + delay, id))

    # -- what people ask for ----------------------------------------------------------------------------------------

    def _heed_orders(self) -> None:
        orders = self._orders()
        self._paused = orders.paused
        self._take_up_resumed(orders.cancelled)
        for id in [
            id for id in reversed(list(self._graph.tasks)) if id in orders.cancelled
        ]:  # or a need blocks them first
            attempt = self._running.get(id)
            if attempt is None and self._states[id] not in ENDED:
                self._cancel(id)
            elif attempt is not None and attempt.intent is not Intent.CANCEL:
                attempt.intent = Intent.CANCEL
                self._kill(
                    attempt, Failed(kind=FailureKind.PREEMPTED, message="cancelled"), self._policy.cancel_seconds
                )
        for id in orders.paused & self._states.keys():
            attempt = self._running.get(id)
            if self._states[id] is State.READY:
                self._queue.remove(id)
                self._move(id, State.PAUSED)
            elif attempt is not None and attempt.intent is None and attempt.verdict is None:
                attempt.intent = Intent.PAUSE
                attempt.kill_at = self._clock.now() + self._policy.leave_seconds
                self._executor.leave(id, attempt.number)
        if self._counts[State.PAUSED]:
            for id in [id for id, state in self._states.items() if state is State.PAUSED and id not in orders.paused]:
                self._enqueue(id)

    def _take_up_resumed(self, cancelled: frozenset[str]) -> None:
        """What was cancelled and isn't any more goes on, and with it what only that had blocked."""
        resumed = []
        for id, task in self._graph.tasks.items():  # each after all that it needs
            state = self._states[id]
            was_stopped = state is State.CANCELLED or (
                state is State.BLOCKED and self._blocked[id] not in self._failures
            )
            needs = {self._states[need] for need in task.needs}
            if was_stopped and id not in cancelled and needs.isdisjoint({State.CANCELLED, State.BLOCKED, State.FAILED}):
                self._blocked.pop(id, None)
                self._move(id, State.WAITING)
                resumed.append(id)
        for id in resumed:
            if self._unmet[id] == 0:
                self._enqueue(id)

    def _cancel(self, id: str, **details: Any) -> None:
        if self._states[id] is State.READY:
            self._queue.remove(id)
        self._move(id, State.CANCELLED, **details)
        self._block_dependents(id, f"needs {id}, which was cancelled")

    # -- the watch --------------------------------------------------------------------------------------------------

    def _look_at_nodes(self) -> None:
        self._ledger.set_nodes(self._executor.capacity())

    def _look_at_running(self) -> None:
        now = self._clock.now()
        live = {node.id for node in self._ledger.nodes}
        for attempt in self._running:
            lost = [id for id in attempt.node_ids if id not in live]
            if lost and (attempt.verdict is None or attempt.verdict.kind is not FailureKind.NODE_LOST):
                verdict = Failed(kind=FailureKind.NODE_LOST, message=f"node {lost[0]} left the cluster")
                # The rest of a gang is still there, and its end is worth waiting for.
                self._kill(
                    attempt, verdict, self._policy.cancel_seconds if live.intersection(attempt.node_ids) else 0.0
                )
            elif attempt.verdict is None and attempt.kill_at <= now:
                verdict = Failed(kind=FailureKind.PREEMPTED, message="asked to leave, and did not")
                self._kill(attempt, verdict, self._policy.cancel_seconds)
            elif attempt.verdict is None and self._stalled(attempt.task):
                message = f"no sign of life; cancelled after {now - attempt.started:.0f} seconds"
                self._kill(attempt, Failed(kind=FailureKind.HANG, message=message), self._policy.cancel_seconds)
            if attempt.verdict is not None and attempt.give_up_at <= now:
                self._end_attempt(Finished(task_id=attempt.task.id, attempt=attempt.number, outcome=attempt.verdict))

    def _kill(self, attempt: Attempt, verdict: Failed, wait_seconds: float) -> None:
        attempt.verdict = verdict
        attempt.give_up_at = self._clock.now() + wait_seconds
        self._executor.cancel(attempt.task.id, attempt.number)

    def _abandon(self, patience_seconds: float) -> None:
        """Let what runs write a checkpoint and leave; kill what has not by then, and give it a moment to be gone."""
        for attempt in self._running:
            self._executor.leave(attempt.task.id, attempt.number)
        self._wait_for_ends(patience_seconds)
        for attempt in self._running:
            self._executor.cancel(attempt.task.id, attempt.number)
        self._wait_for_ends(self._policy.interrupt_seconds)

    def _wait_for_ends(self, seconds: float) -> None:
        until = self._clock.now() + seconds
        while self._running and self._clock.now() < until:
            for finished in self._executor.poll(self._policy.poll_seconds):
                attempt = self._attempt_of(finished)
                if attempt is not None:
                    self._running.remove(attempt)
