"""When each segment would run, as the launcher's own supervisor would place it: the plan's wall-clock, and what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.admission import require_feasible
from cluster.executor import Node
from cluster.simulation import Slot, simulate
from cluster.task import Resources, Task
from sweeps.designs.design import Design
from sweeps.hardware.calibration import Speed, TrainedShape
from sweeps.hardware.speeds import Speeds


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A design in time at one place."""

    nodes: tuple[Node, ...]
    resources: Mapping[str, Resources]
    """What a run takes, by size."""
    speeds: Mapping[TrainedShape, Speed | None]
    seconds: Mapping[str, float]
    """Of each segment whose speed is known, by its id: training steps alone."""
    slots: Sequence[Slot] | None
    """Where and when each segment would run, by end; None where a speed is not known."""

    chain_seconds: float | None
    """Of the longest chain of segments that need each other: no cluster is faster. None where a speed is not known."""

    @property
    def wall_seconds(self) -> float | None:
        return None if self.slots is None else max((slot.end_seconds for slot in self.slots), default=0.0)


def foretell(design: Design, speeds: Speeds, nodes: Sequence[Node], resources: Mapping[str, Resources]) -> Schedule:
    """Time every segment and place it.

    Raises:
        UserError: a run asks for more than the nodes have.
    """
    require_feasible(((f"a run of {size}", asked) for size, asked in resources.items()), nodes)
    shapes = {run.record.key: TrainedShape.of(run.config) for run in design.runs}
    found = {shape: speeds.speed(shape) for shape in dict.fromkeys(shapes.values())}
    by_run = {key: found[shape] for key, shape in shapes.items()}
    seconds: dict[str, float] = {}
    for segment in design.segments:
        speed = by_run[segment.run_key]
        if speed is not None:
            seconds[segment.id] = segment.tokens / speed.tokens_per_second
    timed = len(seconds) == len(design.segments)
    return Schedule(
        nodes=tuple(nodes),
        resources=resources,
        speeds=found,
        seconds=seconds,
        slots=simulate(_tasks(design, seconds, resources), nodes) if timed else None,
        chain_seconds=_longest_chain(design, seconds) if timed else None,
    )


def _longest_chain(design: Design, seconds: Mapping[str, float]) -> float:
    ends: dict[str, float] = {}
    for segment in design.segments:  # what a segment needs stands before it
        ends[segment.id] = seconds[segment.id] + max((ends[need] for need in segment.needs), default=0.0)
    return max(ends.values(), default=0.0)


def _tasks(design: Design, seconds: Mapping[str, float], resources: Mapping[str, Resources]) -> list[Task]:
    sizes = {run.record.key: run.size for run in design.runs}
    return [
        Task(
            id=segment.id,
            function=_train,
            needs=frozenset(segment.needs),
            resources=resources[sizes[segment.run_key]],
            estimated_seconds=seconds[segment.id],
        )
        for segment in design.segments
    ]


def _train(*, attempt: int) -> None:
    """Stands for a segment's training in a simulated schedule, where nothing is called."""


def taken(segment_resources: Resources, nodes: Sequence[Node]) -> float:
    """What a run takes of the place's scarce kind: GPUs where there are any, else cores."""
    return segment_resources.gpus if any(node.gpus for node in nodes) else segment_resources.cpus


def capacity(nodes: Sequence[Node]) -> float:
    """All that the place has of its scarce kind."""
    return float(sum(node.gpus for node in nodes)) or sum(node.cpus for node in nodes)
