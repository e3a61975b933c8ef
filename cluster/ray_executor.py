"""Attempts as plain Ray tasks. Ray starts processes and carries bytes; it neither places, orders nor retries.

Every process is pinned to the node that the supervisor chose and has `max_retries=0`. Workers are reused (about 2 ms an
attempt), except on nodes of several GPUs, where Ray may hand a reused process another GPU than CUDA already sees.
"""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import ray
from ray import exceptions
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from cluster import ray_gang
from cluster.executor import Finished, Node
from cluster.gang import GATHER_SECONDS, Gang
from cluster.orphans import bind_children
from cluster.task import Failed, FailureKind, Outcome, Task
from cluster.worker import pack_call, run_call, threads_of, unpack_outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray.util.placement_group import PlacementGroup

#: While a gang gathers, how often its members' reports are looked for.
_GATHER_LOOK_SECONDS = 0.1
#: `GcsNodeInfo.DeathInfo.Reason` of a node that was drained because it is being taken back.
_DRAINED_FOR_PREEMPTION = 3


def _run(packed: bytes, threads: int, seat: tuple[str, int, int] | None) -> bytes:
    """In a worker: one call, as a member of a gang where there is a seat."""
    bind_children()
    # Ray's cancelling without force raises SIGINT here: it is how `leave` reaches a process on whatever machine.
    before = signal.signal(signal.SIGINT, _pass_on)
    try:
        return run_call(packed, threads, None if seat is None else partial(ray_gang.join, *seat))
    finally:
        signal.signal(signal.SIGINT, before)


def _pass_on(number: int, frame: FrameType | None) -> None:
    """As the signal that a training process listens to; where nobody listens yet, the call ends at once."""
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGUSR1)


def _run_and_exit(packed: bytes, threads: int, seat: tuple[str, int, int] | None) -> bytes:
    """The same under another name, since Ray keeps `max_calls` by function."""
    return _run(packed, threads, seat)


_in_any_worker: Any = ray.remote(max_retries=0, max_calls=0)(_run)
_in_fresh_worker: Any = ray.remote(max_retries=0, max_calls=1)(_run_and_exit)


@dataclass(kw_only=True, eq=False)
class _Attempt:
    task_id: str
    number: int
    node_ids: tuple[str, ...]
    gang: Gang
    """Of one member where the task is no gang."""
    key: str
    """Where its members report in."""
    reservation: PlacementGroup | None
    references: dict[Any, int] = field(default_factory=dict)
    """The rank of each member that has not ended."""

    @property
    def is_gathering(self) -> bool:
        return self.gang.world_size > 1 and self.gang.rendezvous is None


class RayExecutor:
    """An `Executor` on the Ray cluster that this process is connected to (see `cluster.session`)."""

    def __init__(self, *, lost_node_seconds: float = math.inf, gather_seconds: float = GATHER_SECONDS) -> None:
        self.lost_node_seconds = lost_node_seconds
        self._gather_seconds = gather_seconds
        self._attempts: dict[tuple[str, int], _Attempt] = {}
        self._by_reference: dict[Any, _Attempt] = {}
        self._nodes: dict[str, Node] = {}
        self._hosts: dict[str, str] = {}

    def capacity(self) -> list[Node]:
        alive = [node for node in ray.nodes() if node["Alive"]]
        self._hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in alive}
        self._nodes = {
            node["NodeID"]: Node(
                id=node["NodeID"],
                name=node["NodeName"],
                cpus=node["Resources"].get("CPU", 0.0),
                gpus=int(node["Resources"].get("GPU", 0)),
            )
            for node in alive
        }
        return list(self._nodes.values())

    def submit(self, task: Task, attempt: int, node_ids: Sequence[str]) -> None:
        resources, members, nodes = task.resources, len(node_ids), [self._nodes[id] for id in node_ids]
        cpus = min(node.cpus for node in nodes) if resources.whole_node else resources.cpus
        running = _Attempt(
            task_id=task.id,
            number=attempt,
            node_ids=tuple(node_ids),
            gang=Gang(
                members,
                host=self._hosts.get(node_ids[0], ""),
                now=time.monotonic(),
                gather_seconds=self._gather_seconds,
            ),
            key=f"isoloss/{uuid4().hex}",
            reservation=ray_gang.reserve(node_ids, cpus=cpus, gpus=resources.gpus) if members > 1 else None,
        )
        packed = pack_call(task, attempt)
        for rank, (node_id, node) in enumerate(zip(node_ids, nodes, strict=True)):
            is_fresh = resources.gpus > 0 and node.gpus > 1
            remote = (_in_fresh_worker if is_fresh else _in_any_worker).options(
                name=task.id,
                num_cpus=cpus,
                num_gpus=resources.gpus,
                scheduling_strategy=_where(node_id, running.reservation, rank),
            )
            seat = (running.key, rank, members) if members > 1 else None
            reference = remote.remote(packed, threads_of(task), seat)
            running.references[reference] = rank
            self._by_reference[reference] = running
        self._attempts[task.id, attempt] = running

    def poll(self, timeout_seconds: float) -> list[Finished]:
        if not self._attempts:
            time.sleep(timeout_seconds)
            return []
        until = time.monotonic() + timeout_seconds
        while True:
            self._wait_for_members(max(0.0, until - time.monotonic()))
            self._let_go_who_gathered()
            finished = self._collect()
            if finished or time.monotonic() >= until:
                return finished

    def leave(self, task_id: str, attempt: int) -> None:
        self._cancel(self._attempts.get((task_id, attempt)), force=False)

    def cancel(self, task_id: str, attempt: int) -> None:
        self._cancel(self._attempts.get((task_id, attempt)), force=True)

    def close(self) -> None:
        for attempt in list(self._attempts.values()):
            self._cancel(attempt, force=True)
            self._forget(attempt)
        self._by_reference.clear()

    def _cancel(self, attempt: _Attempt | None, *, force: bool) -> None:
        for reference in attempt.references if attempt is not None else ():
            ray.cancel(reference, force=force)

    def _wait_for_members(self, seconds: float) -> None:
        """Until one ends, or something else is to be done about a gang."""
        gangs = [attempt for attempt in self._attempts.values() if attempt.gang.world_size > 1]
        for attempt in gangs:
            seconds = min(seconds, max(0.0, attempt.gang.deadline() - time.monotonic()))
            if attempt.is_gathering:
                seconds = min(seconds, _GATHER_LOOK_SECONDS)
        references = list(self._by_reference)
        ready, _ = ray.wait(references, num_returns=1, timeout=seconds)
        if ready:  # and whatever else ended meanwhile
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in ready:
            attempt = self._by_reference.pop(reference)
            rank = attempt.references.pop(reference)
            attempt.gang.end(rank, _outcome(reference, attempt.node_ids[rank]), time.monotonic())

    def _let_go_who_gathered(self) -> None:
        for attempt in self._attempts.values():
            if not attempt.is_gathering:
                continue
            for rank in attempt.references.values():
                if not attempt.gang.has_reported(rank):
                    port = ray_gang.reported_port(attempt.key, rank)
                    if port is not None:
                        attempt.gang.report(rank, port)
            if attempt.gang.rendezvous is not None:
                ray_gang.let_go(attempt.key, attempt.gang.rendezvous)

    def _collect(self) -> list[Finished]:
        finished = []
        for attempt in list(self._attempts.values()):
            if attempt.gang.must_be_killed(time.monotonic()):
                self._cancel(attempt, force=True)
            outcome = attempt.gang.outcome()
            if outcome is not None:
                self._forget(attempt)
                finished.append(Finished(task_id=attempt.task_id, attempt=attempt.number, outcome=outcome))
        return finished

    def _forget(self, attempt: _Attempt) -> None:
        del self._attempts[attempt.task_id, attempt.number]
        if attempt.reservation is not None:
            remove_placement_group(attempt.reservation)
            ray_gang.forget(attempt.key)


def _where(
    node_id: str, reservation: PlacementGroup | None, rank: int
) -> NodeAffinitySchedulingStrategy | PlacementGroupSchedulingStrategy:
    if reservation is None:
        return NodeAffinitySchedulingStrategy(node_id, soft=False)
    return PlacementGroupSchedulingStrategy(reservation, placement_group_bundle_index=rank)


def _outcome(reference: Any, node_id: str) -> Outcome:
    try:
        return unpack_outcome(ray.get(reference))
    except exceptions.RayError as error:
        return Failed(kind=_classify(error, node_id), message=_first_line(error), traceback=str(error))


def _classify(error: exceptions.RayError, node_id: str) -> FailureKind:
    """What Ray's error says of an attempt. The function's own exceptions never come this way: they are in its outcome."""
    lost = (
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.TaskUnschedulableError,  # pinned to a node that is gone
        exceptions.ObjectLostError,  # the result's node died before it was fetched
    )
    match error:
        case exceptions.OutOfMemoryError():
            return FailureKind.OUT_OF_MEMORY
        case _ if isinstance(error, lost):
            return FailureKind.PREEMPTED if _was_preempted(node_id) else FailureKind.NODE_LOST
        case exceptions.WorkerCrashedError() | exceptions.TaskCancelledError():
            # A worker is also said to have crashed when all of its node went.
            return FailureKind.WORKER_DIED if _is_alive(node_id) else FailureKind.NODE_LOST
        case _:
            return FailureKind.CRASHED


def _is_alive(node_id: str) -> bool:
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


def _was_preempted(node_id: str) -> bool:
    return any(node["NodeID"] == node_id and node.get("DeathReason") == _DRAINED_FOR_PREEMPTION for node in ray.nodes())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
