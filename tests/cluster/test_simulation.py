"""The schedule that the supervisor would make, foretold."""

import pytest

from cluster.executor import Node
from cluster.graph import Graph
from cluster.simulation import SimulatedClock, SimulatedExecutor, simulate
from cluster.task import Resources, Task
from tests.cluster import jobs


def task(id: str, *needs: str, seconds: float, gpus: float = 0) -> Task:
    return Task(
        id=id,
        function=jobs.give,
        needs=frozenset(needs),
        estimated_seconds=seconds,
        resources=Resources(gpus=gpus),
    )


def test_slots_say_where_and_when():
    tasks = [task("trunk", seconds=10), task("b1", "trunk", seconds=4), task("b2", "trunk", seconds=6)]
    slots = simulate(tasks, [Node(id="n", cpus=2)])
    assert [(slot.task_id, slot.start_seconds, slot.end_seconds) for slot in slots] == [
        ("trunk", 0, 10),
        ("b1", 10, 14),
        ("b2", 10, 16),
    ]


def test_mixed_sizes_and_gangs_come_near_the_lower_bound():
    nodes = [Node(id=str(index), cpus=64, gpus=8) for index in range(4)]
    sizes = [Resources(gpus=gpus, members=members) for gpus, members in ((0.5, 1), (1, 1), (2, 1), (8, 1), (8, 2))]
    tasks = [
        Task(id=f"t{i}", function=jobs.give, estimated_seconds=10.0 + 37 * i % 101, resources=sizes[i % 5])
        for i in range(400)
    ]
    slots = simulate(tasks, nodes)
    assert len(slots) == sum(one.resources.members for one in tasks)
    gpu_seconds = sum(one.estimated_seconds * one.resources.gpus * one.resources.members for one in tasks)
    lower_bound = max(gpu_seconds / 32, max(Graph.of(tasks).path_seconds.values()))
    makespan = max(slot.end_seconds for slot in slots)
    assert lower_bound <= makespan <= 1.05 * lower_bound


def test_time_passes_only_by_polling():
    clock = SimulatedClock()
    executor = SimulatedExecutor([Node(id="n", cpus=1)], clock)
    executor.submit(task("a", seconds=5), 1, ["n"])
    assert (executor.poll(3), clock.now()) == ([], 3)
    (finished,) = executor.poll(100)
    assert (finished.task_id, clock.now()) == ("a", 5)
    assert (executor.poll(2), clock.now()) == ([], 7)


def test_a_cancelled_attempt_ends_once():
    clock = SimulatedClock()
    executor = SimulatedExecutor([Node(id="n", cpus=1)], clock)
    executor.submit(task("a", seconds=5), 1, ["n"])
    executor.cancel("a", 1)
    assert [one.task_id for one in executor.poll(1)] == ["a"]
    assert executor.poll(10) == []


@pytest.mark.parametrize("count", [1, 2000])
def test_every_task_has_one_slot(count: int):
    slots = simulate([task(str(i), seconds=1) for i in range(count)], [Node(id="n", cpus=64)])
    assert sorted(int(slot.task_id) for slot in slots) == list(range(count))
