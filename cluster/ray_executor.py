"""Attempts as plain Ray tasks. Ray starts processes and carries bytes; it neither places, orders nor retries.

Every attempt is pinned to the node that the supervisor chose and has `max_retries=0`. Workers are reused (about 2 ms an
attempt), except on nodes of several GPUs, where Ray may hand a reused process another GPU than CUDA already sees.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.executor import Finished, Node
from cluster.task import Failed, FailureKind, Outcome, Task
from cluster.worker import pack_call, run_call, threads_of, unpack_outcome


def _run_call_and_exit(packed: bytes, threads: int) -> bytes:
    """The same under another name, since Ray keeps `max_calls` by function."""
    return run_call(packed, threads)


_in_any_worker: Any = ray.remote(max_retries=0, max_calls=0)(run_call)
_in_fresh_worker: Any = ray.remote(max_retries=0, max_calls=1)(_run_call_and_exit)

#: `GcsNodeInfo.DeathInfo.Reason` of a node that was drained because it is being taken back.
_DRAINED_FOR_PREEMPTION = 3


class RayExecutor:
    """An `Executor` on the Ray cluster that this process is connected to (see `cluster.session`)."""

    def __init__(self) -> None:
        self._attempts: dict[Any, tuple[str, int]] = {}
        self._nodes: dict[str, Node] = {}
        self._node_of: dict[Any, str] = {}

    def capacity(self) -> list[Node]:
        self._nodes = {
            node["NodeID"]: Node(
                id=node["NodeID"],
                name=node["NodeName"],
                cpus=node["Resources"].get("CPU", 0.0),
                gpus=int(node["Resources"].get("GPU", 0)),
            )
            for node in ray.nodes()
            if node["Alive"]
        }
        return list(self._nodes.values())

    def submit(self, task: Task, attempt: int, node_id: str) -> None:
        node = self._nodes[node_id]
        fresh = task.resources.gpus > 0 and node.gpus > 1
        remote = (_in_fresh_worker if fresh else _in_any_worker).options(
            name=task.id,
            num_cpus=node.cpus if task.resources.whole_node else task.resources.cpus,
            num_gpus=task.resources.gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        reference = remote.remote(pack_call(task, attempt), threads_of(task))
        self._attempts[reference] = (task.id, attempt)
        self._node_of[reference] = node_id

    def poll(self, timeout_seconds: float) -> list[Finished]:
        if not self._attempts:
            time.sleep(timeout_seconds)
            return []
        references = list(self._attempts)
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout_seconds)
        if ready:  # and whatever else ended meanwhile
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [self._collect(reference) for reference in ready]

    def cancel(self, task_id: str, attempt: int) -> None:
        for reference, running in self._attempts.items():
            if running == (task_id, attempt):
                ray.cancel(reference, force=True)

    def close(self) -> None:
        for reference in self._attempts:
            ray.cancel(reference, force=True)
        self._attempts.clear()
        self._node_of.clear()

    def _collect(self, reference: Any) -> Finished:
        task_id, attempt = self._attempts.pop(reference)
        node_id = self._node_of.pop(reference)
        outcome: Outcome
        try:
            outcome = unpack_outcome(ray.get(reference))
        except exceptions.RayError as error:
            outcome = Failed(kind=_classify(error, node_id), message=_first_line(error), traceback=str(error))
        return Finished(task_id=task_id, attempt=attempt, outcome=outcome)


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
