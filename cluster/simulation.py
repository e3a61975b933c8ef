"""A cluster that exists only in time: the same supervisor drives it, to foretell a schedule or to be put to the test."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cluster.executor import Finished, Node
from cluster.states import Event, Policy, State
from cluster.supervisor import Supervisor
from cluster.task import Failed, FailureKind, Outcome, Succeeded, Task


class SimulatedClock:
    """Stands still until it is advanced."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def advance_to(self, seconds: float) -> None:
        self._now = max(self._now, seconds)


class SimulatedExecutor:
    """An `Executor` whose attempts take the time and have the end that `fate` gives them. Polling advances the clock."""

    def __init__(
        self,
        nodes: Iterable[Node],
        clock: SimulatedClock,
        fate: Callable[[Task, int], tuple[float, Outcome]] | None = None,
    ) -> None:
        """`fate` gives the seconds and the outcome of an attempt (counted from 1); by default each takes its estimate and
        succeeds. An infinite time is a hang: it ends only by `cancel`.
        """
        self.nodes = list(nodes)
        self.lost_node_seconds = math.inf
        self._clock = clock
        self._fate = fate or (lambda task, attempt: (task.estimated_seconds, Succeeded(value=None)))
        self._ends: list[tuple[float, int, str, int, Outcome]] = []
        self._order = 0
        self._live: set[tuple[str, int]] = set()

    def capacity(self) -> list[Node]:
        return list(self.nodes)

    def submit(self, task: Task, attempt: int, node_ids: Sequence[str]) -> None:
        seconds, outcome = self._fate(task, attempt)
        self._live.add((task.id, attempt))
        self._push(self._clock.now() + seconds, task.id, attempt, outcome)

    def poll(self, timeout_seconds: float) -> list[Finished]:
        until = self._clock.now() + timeout_seconds
        self._clock.advance_to(min(until, self._ends[0][0]) if self._ends else until)
        finished = []
        while self._ends and self._ends[0][0] <= self._clock.now():
            _, _, id, attempt, outcome = heapq.heappop(self._ends)
            if (id, attempt) in self._live:
                self._live.remove((id, attempt))
                finished.append(Finished(task_id=id, attempt=attempt, outcome=outcome))
        return finished

    def leave(self, task_id: str, attempt: int) -> None:
        left = Failed(kind=FailureKind.PREEMPTED, message="asked to leave")
        self._push(self._clock.now(), task_id, attempt, left)

    def cancel(self, task_id: str, attempt: int) -> None:
        killed = Failed(kind=FailureKind.WORKER_DIED, message="cancelled")
        self._push(self._clock.now(), task_id, attempt, killed)

    def close(self) -> None:
        self._ends.clear()

    def _push(self, end: float, task_id: str, attempt: int, outcome: Outcome) -> None:
        self._order += 1
        heapq.heappush(self._ends, (end, self._order, task_id, attempt, outcome))


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where and when a task is expected to run; a gang has one for each member."""

    task_id: str
    node_id: str
    start_seconds: float
    end_seconds: float


def simulate(tasks: Iterable[Task], nodes: Iterable[Node]) -> list[Slot]:
    """The schedule that the supervisor would make if every estimate were right and nothing failed, by end.

    Raises:
        UserError: a task asks for more than the nodes have.
    """
    clock = SimulatedClock()
    started: dict[str, Event] = {}
    slots: list[Slot] = []

    def note(event: Event) -> None:
        if event.state is State.RUNNING:
            started[event.task.id] = event
        elif event.state is State.DONE:
            start = started.pop(event.task.id)
            slots.extend(
                Slot(task_id=event.task.id, node_id=node, start_seconds=start.seconds, end_seconds=event.seconds)
                for node in start.node_ids
            )

    forever = Policy(poll_seconds=math.inf, watch_seconds=math.inf)  # nothing happens between two ends
    Supervisor(tasks, SimulatedExecutor(nodes, clock), on_event=note, policy=forever, clock=clock).run()
    return slots
