"""Who waits for what: no task is starved, and what was promised to the first in line is kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.executor import Node
from cluster.queue import ReadyQueue
from cluster.simulation import SimulatedClock, SimulatedExecutor
from cluster.states import Event, State
from cluster.supervisor import Supervisor
from cluster.task import Resources, Task
from tests.cluster import jobs

NODES = [Node(id=f"n{index}", cpus=8, gpus=4) for index in range(4)]
MIX = [
    Resources(gpus=0.25),
    Resources(gpus=0.5, cpus=0.5),
    Resources(gpus=1),
    Resources(gpus=2, cpus=2),
    Resources(gpus=4, cpus=4),
    Resources(cpus=8),
    Resources(whole_node=True),
    Resources(gpus=1, members=6),
    Resources(gpus=4, cpus=4, members=2),
    Resources(gpus=4, cpus=4, members=4),
]


def task(id: str, resources: Resources, seconds: float, *needs: str) -> Task:
    return Task(id=id, function=jobs.give, resources=resources, estimated_seconds=seconds, needs=frozenset(needs))


class Promises:
    """Runs tasks on the simulated nodes and notes each reservation and how it was kept."""

    def __init__(self, tasks: list[Task], monkeypatch: pytest.MonkeyPatch):
        self.open: dict[Resources, float] = {}
        self.kept: list[tuple[float, float]] = []
        self.starts: dict[str, float] = {}
        keep = ReadyQueue._keep

        def note_reservation(queue: ReadyQueue, resources: Resources, node_ids: frozenset[str], start: float) -> None:
            self.open.setdefault(resources, start)
            keep(queue, resources, node_ids, start)

        monkeypatch.setattr(ReadyQueue, "_keep", note_reservation)
        clock = SimulatedClock()
        supervisor = Supervisor(tasks, SimulatedExecutor(NODES, clock), on_event=self.note, clock=clock)
        self.summary = supervisor.run()

    def note(self, event: Event) -> None:
        if event.state is State.RUNNING:
            self.starts[event.task.id] = event.seconds
            promised = self.open.pop(event.task.resources, None)
            if promised is not None:
                self.kept.append((promised, event.seconds))


@st.composite
def mixes(draw: st.DrawFn) -> list[Task]:
    """Tasks of mixed sizes, some of which need an earlier one, so that work turns up while others wait."""
    tasks: list[Task] = []
    for index in range(draw(st.integers(1, 40))):
        needs = [str(draw(st.integers(0, index - 1)))] if index and draw(st.booleans()) else []
        seconds = draw(st.sampled_from([1.0, 5.0, 7.0, 30.0, 100.0]))
        tasks.append(task(str(index), draw(st.sampled_from(MIX)), seconds, *needs))
    return tasks


@settings(max_examples=100, deadline=None)
@given(mixes())
def test_every_task_ends_and_every_promise_is_kept(tasks: list[Task]):
    with pytest.MonkeyPatch.context() as monkeypatch:
        promises = Promises(tasks, monkeypatch)
    assert len(promises.summary.done) == len(tasks)
    assert promises.open == {}
    for promised, started in promises.kept:
        assert started <= promised


def test_a_gang_over_all_nodes_starts_when_promised_though_small_tasks_never_end(monkeypatch: pytest.MonkeyPatch):
    small = [
        task(f"s{lane}-{step}", Resources(gpus=1), 10.0 + lane % 3, *([f"s{lane}-{step - 1}"] if step else []))
        for lane in range(16)
        for step in range(20)
    ]
    gang = task("gang", Resources(gpus=4, cpus=4, members=4), 50.0)
    promises = Promises([*small, gang], monkeypatch)
    (promised, started), *_ = promises.kept
    assert promises.starts["gang"] == started <= promised <= 12.0


def test_reservations_are_made_in_such_mixes(monkeypatch: pytest.MonkeyPatch):
    """Or the property above would hold of nothing."""
    mix = [task(f"{n}", MIX[n % len(MIX)], 5.0 + n % 7) for n in range(200)]
    assert len(Promises(mix, monkeypatch).kept) > 20
