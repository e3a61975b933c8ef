"""The tasks as a DAG: checks, order, and the length of paths."""

import pytest

from cluster.graph import Graph
from cluster.task import Task
from tests.cluster import jobs


def task(id: str, *needs: str, seconds: float = 1.0) -> Task:
    return Task(id=id, function=jobs.give, needs=frozenset(needs), estimated_seconds=seconds)


def test_path_counts_the_task_itself_and_the_longest_of_what_follows():
    tasks = [
        task("end", "long", "short", seconds=5),
        task("long", "start", seconds=7),
        task("short", "start", seconds=2),
        task("start", seconds=1),
        task("alone", seconds=3),
    ]
    graph = Graph.of(tasks)
    assert graph.path_seconds == {"end": 5, "long": 12, "short": 7, "start": 13, "alone": 3}


def test_every_task_stands_after_its_needs():
    graph = Graph.of([task("c", "a", "b"), task("b", "a"), task("a")])
    assert list(graph.tasks) == ["a", "b", "c"]
    assert graph.dependents["a"] == ("c", "b")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task("a"), task("a")], "two tasks have the id a"),
        ([task("a", "ghost")], "task a needs ghost, which is not among the tasks"),
        ([task("a", "b"), task("b", "a"), task("c")], "in a circle.*a, b"),
        ([task("a", "a")], "in a circle"),
    ],
)
def test_what_is_no_dag_is_refused_by_name(tasks: list[Task], message: str):
    with pytest.raises(ValueError, match=message):
        Graph.of(tasks)
