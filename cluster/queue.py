"""The ready tasks: which may start now, and where, so that the longest path goes first and nothing starves.

Tasks that take the same stand in one line. When the first task of all has no room, its line reserves the nodes where there will
be room first, and keeps them until one of the line starts. Others may start there only if they are out of the way by then:
EASY backfilling (Lifka 1995). So a large task, or a gang, starts no later than its line's reservation promised if running tasks
end as estimated, and in the end whatever they do.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from cluster.attempts import Attempts
from cluster.graph import Graph
from cluster.placement import Ledger, Placement
from cluster.task import Resources, Task


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Nodes kept for a line, and when its head should have its room there."""

    resources: Resources
    node_ids: frozenset[str]
    start: float
    changes: int
    """Of the nodes, when the start was worked out."""


class ReadyQueue:
    """Ready tasks by the longest estimated path to the end of the graph."""

    def __init__(self, graph: Graph, ledger: Ledger, attempts: Attempts) -> None:
        self._graph, self._ledger, self._attempts = graph, ledger, attempts
        self._order = {id: order for order, id in enumerate(graph.tasks)}
        self._waiting: set[str] = set()
        # If the head of a line has no room, none of it has. A line may hold what left it: see `_head`.
        self._lines: dict[Resources, list[tuple[float, int, str]]] = {}
        self.reservation: Reservation | None = None

    def push(self, id: str) -> None:
        self._waiting.add(id)
        line = self._lines.setdefault(self._graph.tasks[id].resources, [])
        heapq.heappush(line, (*self._place_in_line(self._graph.tasks[id]), id))

    def remove(self, id: str) -> None:
        self._waiting.remove(id)

    def startable(self, now: float) -> Iterator[tuple[Task, Placement]]:
        """Each task that may start now, and where: no longer waiting, to be started before the next is asked for."""
        self._refresh_reservation(now)
        if self.reservation is not None:
            head = self._head(self.reservation.resources)
            assert head is not None  # or the reservation would have been dropped
            if placement := self._ledger.find(head.resources):
                self.reservation = None
                self.remove(head.id)
                yield head, placement
        without_room: set[Resources] = set()
        while (task := self._first(without_room)) is not None:
            placement = self._beside_reservation(task, now)
            if placement is not None:
                self.remove(task.id)
                yield task, placement
                continue
            without_room.add(task.resources)
            if self.reservation is None:
                self._reserve(task.resources, now)

    def _head(self, resources: Resources) -> Task | None:
        line = self._lines[resources]
        while line and line[0][2] not in self._waiting:
            heapq.heappop(line)
        return self._graph.tasks[line[0][2]] if line else None

    def _first(self, without_room: set[Resources]) -> Task | None:
        """The first of all in those lines that may still have room."""
        heads = [head for resources in self._lines if resources not in without_room and (head := self._head(resources))]
        return min(heads, key=self._place_in_line, default=None)

    def _place_in_line(self, task: Task) -> tuple[float, int]:
        return -self._graph.path_seconds[task.id], self._order[task.id]

    def _beside_reservation(self, task: Task, now: float) -> Placement | None:
        """A place that doesn't delay who holds the reservation."""
        placement = self._ledger.find(task.resources)
        kept = self.reservation
        if placement is None or kept is None or now + task.estimated_seconds <= kept.start:
            return placement
        if kept.node_ids.isdisjoint(share.node_id for share in placement):
            return placement
        return self._ledger.find(task.resources, excluding=kept.node_ids)

    def _reserve(self, resources: Resources, now: float) -> None:
        found = self._ledger.earliest(resources, self._attempts.expected_ends(now))
        if found is not None:  # else too many nodes were lost, for now
            self._keep(resources, found[1], found[0])

    def _keep(self, resources: Resources, node_ids: frozenset[str], start: float) -> None:
        changes = self._ledger.changes(node_ids)
        self.reservation = Reservation(resources=resources, node_ids=node_ids, start=start, changes=changes)

    def _refresh_reservation(self, now: float) -> None:
        """Work out the start anew where something began or ended on its nodes, or is overdue; elsewhere if they left."""
        kept = self.reservation
        if kept is None:
            return
        if self._head(kept.resources) is None:
            self.reservation = None
        elif kept.start < now or self._ledger.changes(kept.node_ids) != kept.changes:
            if self._ledger.find(kept.resources):
                self._keep(kept.resources, kept.node_ids, now)
                return
            ends = self._attempts.expected_ends(now, kept.node_ids)
            found = self._ledger.earliest(kept.resources, ends, among=kept.node_ids)
            self.reservation = None
            if found is not None:
                self._keep(kept.resources, kept.node_ids, found[0])
            else:
                self._reserve(kept.resources, now)
