"""What a launcher learns of a standing cluster, from a stand-in for its nodes."""

from __future__ import annotations

import pytest

from cluster.executor import Node
from cluster.simulation import SimulatedClock, SimulatedExecutor
from cluster.task import Failed, FailureKind, Outcome, Succeeded, Task
from llama.errors import UserError
from sweeps.launching.cluster_place import cluster_place

NODES = (Node(id="head", cpus=4, gpus=0), Node(id="worker", cpus=16, gpus=8))
H100 = {"device": "cuda", "name": "NVIDIA H100 80GB HBM3", "torch_version": "2.9.1", "has_bf16_tiles": False}


def answering(outcome: Outcome, asked: list[Task], nodes: tuple[Node, ...] = NODES) -> SimulatedExecutor:
    def fate(task: Task, attempt: int) -> tuple[float, Outcome]:
        asked.append(task)
        return 0.0, outcome

    return SimulatedExecutor(nodes, SimulatedClock(), fate)


def test_the_machine_is_a_gpu_nodes_whatever_the_head_has():
    asked: list[Task] = []
    place = cluster_place(answering(Succeeded(value=H100), asked))
    assert (place.machine.device, place.machine.name) == ("cuda", "NVIDIA H100 80GB HBM3")
    assert (place.nodes, place.gpus) == (NODES, 8)
    assert place.accelerator is not None
    assert asked[0].resources.gpus > 0  # so it went to a node that has one


def test_a_cluster_of_cpus_is_asked_too():
    asked: list[Task] = []
    told = {"device": "cpu", "name": "AMD EPYC 9654", "torch_version": "2.9.1", "has_bf16_tiles": False}
    place = cluster_place(answering(Succeeded(value=told), asked, NODES[:1]))
    assert (place.machine.name, place.gpus, asked[0].resources.gpus) == ("AMD EPYC 9654", 0, 0)


def test_gpus_that_torch_cannot_use_are_refused():
    with pytest.raises(UserError, match=r"can't use them: its torch is 2.9.1\+cpu"):
        cluster_place(answering(Succeeded(value={**H100, "device": "cpu", "torch_version": "2.9.1+cpu"}), []))


def test_a_cluster_that_does_not_answer_is_refused():
    dead = Failed(kind=FailureKind.USER_ERROR, message="isoloss is not installed there")
    with pytest.raises(UserError, match="not installed there"):
        cluster_place(answering(dead, []))
