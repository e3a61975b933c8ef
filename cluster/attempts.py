"""Attempts under way: where each runs, when it should end, and what was already decided about its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from cluster.placement import Placement
from cluster.task import Failed, Task


class Intent(Enum):
    """Why a person had an attempt ended."""

    PAUSE = auto()
    CANCEL = auto()


@dataclass(kw_only=True, eq=False)
class Attempt:
    """One attempt of a task."""

    task: Task
    number: int
    placement: Placement
    started: float
    intent: Intent | None = None
    verdict: Failed | None = None
    """Why it was killed, whatever its end will look like."""
    kill_at: float = float("inf")
    """When one that was asked to leave is killed."""
    give_up_at: float = float("inf")
    """When one that was killed is taken as ended."""

    @property
    def node_ids(self) -> tuple[str, ...]:
        """By rank."""
        return tuple(share.node_id for share in self.placement)


class Attempts:
    """All that run, by task and by node."""

    def __init__(self) -> None:
        self._by_task: dict[str, Attempt] = {}
        self._by_node: defaultdict[str, dict[str, Attempt]] = defaultdict(dict)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._by_task.values()))

    def __len__(self) -> int:
        return len(self._by_task)

    def get(self, task_id: str) -> Attempt | None:
        return self._by_task.get(task_id)

    def add(self, attempt: Attempt) -> None:
        self._by_task[attempt.task.id] = attempt
        for id in attempt.node_ids:
            self._by_node[id][attempt.task.id] = attempt

    def remove(self, attempt: Attempt) -> None:
        del self._by_task[attempt.task.id]
        for id in set(attempt.node_ids):
            del self._by_node[id][attempt.task.id]

    def expected_ends(self, now: float, node_ids: Collection[str] | None = None) -> list[tuple[float, Placement]]:
        """When each should end, with what it holds: of those on these nodes, or of all."""
        if node_ids is None:
            attempts = self._by_task.values()
        else:
            attempts = {id: one for node in node_ids for id, one in self._by_node[node].items()}.values()
        return [(max(now, one.started + one.task.estimated_seconds), one.placement) for one in attempts]
