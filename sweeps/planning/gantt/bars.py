"""Segments as bars on rows: from a simulated schedule, or from the attempts that run folders tell of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llama.accounting import count_parameters
from sweeps.attempts import read_attempts
from sweeps.designs.design import Design
from sweeps.planning.schedule import Schedule, capacity, taken
from sweeps.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A segment, or an attempt at one, in time."""

    run: str
    size: str
    n_params: int
    is_trunk: bool
    is_done: bool
    start_seconds: float
    end_seconds: float
    rows: tuple[int, ...]
    """Counted from the top."""


@dataclass(frozen=True, kw_only=True)
class Gantt:
    """Bars on the rows of one place."""

    title: str
    caption: str
    unit: str
    """`GPU` or `core`."""
    capacity: float
    """In units."""
    rows_a_unit: int
    """More than one where runs share a GPU."""
    node_rows: tuple[int, ...]
    """Rows of each node, top to bottom."""
    bars: tuple[Bar, ...]

    @property
    def end_seconds(self) -> float:
        return max((bar.end_seconds for bar in self.bars), default=0.0)


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A bar before it has rows."""

    run_key: str
    node: str
    units: float
    start_seconds: float
    end_seconds: float
    is_done: bool = True


def planned_gantt(design: Design, schedule: Schedule, *, place: str) -> Gantt | None:
    """The simulated schedule; None where a speed is unknown."""
    if schedule.slots is None:
        return None
    segments = {segment.id: segment for segment in design.segments}
    sizes = {run.record.key: run.size for run in design.runs}
    spans = []
    for slot in schedule.slots:
        key = segments[slot.task_id].run_key
        units = taken(schedule.resources[sizes[key]], schedule.nodes)
        spans.append(
            _Span(
                run_key=key,
                node=slot.node_id,
                units=units,
                start_seconds=slot.start_seconds,
                end_seconds=slot.end_seconds,
            )
        )
    has_gpus = any(node.gpus for node in schedule.nodes)
    return _gantt(
        design,
        spans,
        title=f"{design.spec.name}: as planned on {place}",
        caption="Simulated by the launcher's own supervisor, longest path first; training steps alone.",
        unit="GPU" if has_gpus else "core",
        units_by_node={node.id: float(node.gpus) if has_gpus else node.cpus for node in schedule.nodes},
        all_units=capacity(schedule.nodes),
    )


def happened_gantt(design: Design, storage: Storage) -> Gantt | None:
    """Every attempt at the design's runs, by the times that the launchers noted; None where none was noted."""
    attempts = [(run.record.key, one) for run in design.runs for one in read_attempts(storage.run(run.record.key))]
    if not attempts:
        return None
    begin = min(one.began_unix_ms for _, one in attempts)
    has_gpus = any(one.gpus for _, one in attempts)
    spans = [
        _Span(
            run_key=key,
            node=node,
            units=one.gpus if has_gpus else one.cpus,
            start_seconds=(one.began_unix_ms - begin) / 1000,
            end_seconds=(one.ended_unix_ms - begin) / 1000,
            is_done=one.outcome == "done",
        )
        for key, one in attempts
        for node in one.nodes
    ]
    return _gantt(
        design,
        spans,
        title=f"{design.spec.name}: as it happened",
        caption="From attempts.jsonl in the run folders: from hand-over to a worker to the attempt's end, start-up, validation "
        "and checkpoints included. Rows are as many as were ever in use at once.",
        unit="GPU" if has_gpus else "core",
        units_by_node=None,
        all_units=None,
    )


def _gantt(
    design: Design,
    spans: Sequence[_Span],
    *,
    title: str,
    caption: str,
    unit: str,
    units_by_node: Mapping[str, float] | None,
    all_units: float | None,
) -> Gantt:
    """`units_by_node` is None where nodes are known by what ran there alone."""
    least = min((span.units for span in spans), default=1.0)
    rows_a_unit = max(1, int(round(1 / least, 6)))
    by_node: dict[str, list[_Span]] = defaultdict(list)
    for node in units_by_node or ():
        by_node[node] = []
    for span in spans:
        by_node[span.node].append(span)
    runs = {run.record.key: run for run in design.runs}
    bars: list[Bar] = []
    node_rows: list[int] = []
    for node, here in by_node.items():
        most = 0 if units_by_node is None else round(units_by_node[node] * rows_a_unit)
        placed, rows = _on_rows(here, rows_a_unit, most)
        first = sum(node_rows)
        node_rows.append(rows)
        bars += [
            Bar(
                run=runs[span.run_key].record.name,
                size=runs[span.run_key].size,
                n_params=count_parameters(runs[span.run_key].config.model).n_params,
                is_trunk=runs[span.run_key].record.is_trunk,
                is_done=span.is_done,
                start_seconds=span.start_seconds,
                end_seconds=span.end_seconds,
                rows=tuple(first + row for row in taken_rows),
            )
            for span, taken_rows in placed
        ]
    return Gantt(
        title=title,
        caption=caption,
        unit=unit,
        capacity=all_units if all_units is not None else sum(node_rows) / rows_a_unit,
        rows_a_unit=rows_a_unit,
        node_rows=tuple(node_rows),
        bars=tuple(bars),
    )


def _on_rows(spans: Iterable[_Span], rows_a_unit: int, most: int) -> tuple[list[tuple[_Span, tuple[int, ...]]], int]:
    """Each span on the topmost free rows of its node, in order of start; and how many rows there are, `most` at least."""
    free_at = [0.0] * most
    placed = []
    for span in sorted(spans, key=lambda one: (one.start_seconds, one.end_seconds)):
        wanted = max(1, round(span.units * rows_a_unit))
        free = [row for row, end in enumerate(free_at) if end <= span.start_seconds + 1e-9][:wanted]
        while len(free) < wanted:
            free.append(len(free_at))
            free_at.append(0.0)
        for row in free:
            free_at[row] = span.end_seconds
        placed.append((span, tuple(free)))
    return placed, len(free_at)
