"""The tasks as a directed acyclic graph: who waits for whom, and how long the work is that hangs on each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.task import Task


@dataclass(frozen=True)
class Graph:
    """Tasks by id, in an order in which every task stands after all that it needs."""

    tasks: Mapping[str, Task]
    dependents: Mapping[str, tuple[str, ...]]
    """By id, the tasks that need it."""
    path_seconds: Mapping[str, float]
    """By id, the longest estimated path from the task's start to the end of the graph."""

    @classmethod
    def of(cls, tasks: Iterable[Task]) -> Graph:
        """Check and order the tasks.

        Raises:
            ValueError: an id stands twice, a need is unknown, or tasks need each other in a circle.
        """
        by_id: dict[str, Task] = {}
        for task in tasks:
            if task.id in by_id:
                raise ValueError(f"two tasks have the id {task.id}")
            by_id[task.id] = task
        dependents: dict[str, list[str]] = {id: [] for id in by_id}
        for task in by_id.values():
            for need in sorted(task.needs):
                if need not in by_id:
                    raise ValueError(f"task {task.id} needs {need}, which is not among the tasks")
                dependents[need].append(task.id)
        order = _topological_order(by_id, dependents)
        path: dict[str, float] = {}
        for id in reversed(order):
            path[id] = by_id[id].estimated_seconds + max((path[next] for next in dependents[id]), default=0.0)
        return cls({id: by_id[id] for id in order}, {id: tuple(ids) for id, ids in dependents.items()}, path)


def _topological_order(tasks: Mapping[str, Task], dependents: Mapping[str, list[str]]) -> list[str]:
    """Kahn's algorithm."""
    missing = {id: len(task.needs) for id, task in tasks.items()}
    order = [id for id, count in missing.items() if count == 0]
    for id in order:  # grows while it is walked
        for dependent in dependents[id]:
            missing[dependent] -= 1
            if missing[dependent] == 0:
                order.append(dependent)
    if len(order) < len(tasks):
        circle = sorted(id for id, count in missing.items() if count > 0)
        raise ValueError(f"tasks need each other in a circle, or need one that does: {', '.join(circle[:5])}")
    return order
