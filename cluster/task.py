"""What `cluster` is handed and what it hands back: a `Task`, the `Resources` it takes, and its `Outcome`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one attempt takes: of one node, or, as a gang of several members, as much for each of them."""

    cpus: float = 1.0
    """Cores, and so the threads that numerical libraries may use."""
    gpus: float = 0.0
    """A whole number of GPUs, or a share of one below 1."""
    whole_node: bool = False
    """Nothing else runs on the node meanwhile: for timings that need idle cores."""
    members: int = 1
    """Processes that run the call together, on one node or several: all start, or none. `Member` tells each who it is."""

    def __post_init__(self) -> None:
        if self.cpus <= 0:
            raise ValueError(f"cpus is {self.cpus}, expected more than 0")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus is {self.gpus}, expected a share below 1 or a whole number")
        if self.members < 1:
            raise ValueError(f"members is {self.members}, expected 1 or more")

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"] + ([f"{self.gpus:g} GPU"] if self.gpus else [])
        each = " and ".join(parts) + (" on a node of its own" if self.whole_node else "")
        return each if self.members == 1 else f"{self.members} members with {each} each"


@dataclass(frozen=True, kw_only=True)
class Member:
    """Who a process is in its gang. A gang's function is called with `member=<Member>` beside its other arguments."""

    rank: int
    world_size: int
    rendezvous: str
    """`host:port` on the machine of rank 0, where a port was free a moment ago: `tcp://...` for torch.distributed."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call that is worth scheduling, retrying and skipping as one. Called as `function(attempt=<int>, **arguments)`, by each
    member of a gang; what rank 0 returns is the task's value.
    """

    id: str
    function: Callable[..., Any]
    """Importable by name in a worker process; what it returns must pickle."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    """Ids of tasks that must be done before."""
    resources: Resources = Resources()
    estimated_seconds: float = 1.0
    """Decides order only: an estimate that is wrong costs time, never correctness."""


class FailureKind(StrEnum):
    """Why an attempt failed. `cluster.supervisor` says which are worth another attempt, `cluster.states.Policy` how many."""

    USER_ERROR = "user_error"
    """The function raised `llama.errors.UserError`: a person must act."""
    NON_FINITE = "non_finite"
    """The function raised `llama.errors.Diverged`."""
    FENCED = "fenced"
    """The function raised `llama.errors.Fenced`: somebody else has taken over, and may have done it by the next attempt."""
    HELD = "held"
    """The function raised `llama.lease.LeaseHeld`: somebody else holds it now, and may be gone by the next attempt."""
    OUT_OF_MEMORY = "out_of_memory"
    """Host or GPU memory ran out, or Ray killed the worker before it did."""
    CRASHED = "crashed"
    """The function raised anything else."""
    WORKER_DIED = "worker_died"
    """The process ended under the function: a signal, a segmentation fault, the kernel's OOM killer."""
    HANG = "hang"
    """No sign of life for too long; cancelled by the supervisor."""
    NODE_LOST = "node_lost"
    """The machine, its raylet or the way to it is gone."""
    PREEMPTED = "preempted"
    """The function raised `llama.errors.Preempted`, or its process or machine was taken back with notice."""
    NOT_GATHERED = "not_gathered"
    """Not all members of a gang reported in: somebody else took the room, or a node is slow to start."""


@dataclass(frozen=True, kw_only=True)
class Succeeded:
    """The function returned."""

    value: Any
    seconds: float = 0.0
    """In the function, without queueing or transport."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The function raised, or its process or node went away."""

    kind: FailureKind
    message: str
    traceback: str = ""
    seconds: float = 0.0
    """In the function, as far as known; 0 when its process died."""


Outcome = Succeeded | Failed
