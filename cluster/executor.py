"""The one interface between the supervisor and whatever runs attempts: worker processes here, Ray, or a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.task import Outcome, Task

#: An executor that has its one node to itself gets no other; but a node that is only late to answer may be back by then.
OWN_NODE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine's capacity."""

    id: str
    cpus: float
    gpus: int = 0
    name: str = ""
    """For people: an address or host name."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """An attempt that ended."""

    task_id: str
    attempt: int
    outcome: Outcome


class Executor(Protocol):
    """Runs attempts where it is told to. It neither queues, orders nor retries: the supervisor does."""

    lost_node_seconds: float
    """How long a lost node may yet be replaced: without end on a cluster that somebody looks after."""

    def capacity(self) -> list[Node]:
        """The live nodes with all that they have, used or not. Cheap: asked every few seconds."""

    def submit(self, task: Task, attempt: int, node_ids: Sequence[str]) -> None:
        """Start an attempt, each member on its node; the supervisor has made sure that they fit. A gang's members start their
        call once all have reported in, and end together: one that fails takes the others with it.
        """

    def poll(self, timeout_seconds: float) -> list[Finished]:
        """Attempts that ended, each reported once; waits up to the timeout for the first. Waits it out when none runs."""

    def leave(self, task_id: str, attempt: int) -> None:
        """Ask the attempt to write a checkpoint and leave, by SIGUSR1 (`llama.preemption`). `poll` reports its end."""

    def cancel(self, task_id: str, attempt: int) -> None:
        """Kill the attempt if it runs. `poll` reports its end: its node is taken until then."""

    def close(self) -> None:
        """End every attempt and process that this executor started."""
