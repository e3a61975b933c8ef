"""Bars of a schedule and of what happened, and the files that they are drawn into."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from cluster.executor import Node
from cluster.task import Resources
from llama.errors import UserError
from sweeps.attempts import ATTEMPTS, AttemptRecord
from sweeps.hardware.speeds import Speeds
from sweeps.planning.gantt.bars import Gantt, happened_gantt, planned_gantt
from sweeps.planning.gantt.picture import write_gantt
from sweeps.planning.schedule import foretell
from sweeps.storage import Storage
from tests.sweeps.examples import design
from tests.sweeps.planning.test_plan import UNMEASURED, measured


def planned(nodes: list[Node], resources: Resources, **changes) -> Gantt:
    found = design(**changes)
    schedule = foretell(found, Speeds(calibration=measured(found)), nodes, dict.fromkeys(found.models, resources))
    gantt = planned_gantt(found, schedule, place="somewhere")
    assert gantt is not None
    assert sorted(bar.end_seconds for bar in gantt.bars) == sorted(slot.end_seconds for slot in schedule.slots)
    return gantt


def area(gantt: Gantt) -> float:
    return sum((bar.end_seconds - bar.start_seconds) * len(bar.rows) for bar in gantt.bars)


def assert_no_two_bars_overlap(gantt: Gantt) -> None:
    by_row: dict[int, list[tuple[float, float]]] = {}
    for bar in gantt.bars:
        for row in bar.rows:
            by_row.setdefault(row, []).append((bar.start_seconds, bar.end_seconds))
    assert max(by_row) < sum(gantt.node_rows)
    for spans in by_row.values():
        spans.sort()
        assert all(left[1] <= right[0] + 1e-9 for left, right in pairwise(spans))


@pytest.mark.parametrize(
    ("nodes", "resources", "rows_a_unit", "node_rows"),
    [
        ([Node(id="a", cpus=2)], Resources(), 1, (2,)),
        ([Node(id="a", cpus=4), Node(id="b", cpus=3)], Resources(cpus=2), 1, (4, 3)),
        ([Node(id="a", cpus=64, gpus=2), Node(id="b", cpus=64, gpus=1)], Resources(gpus=0.25), 4, (8, 4)),
        ([Node(id="a", cpus=64, gpus=8)], Resources(gpus=2), 1, (8,)),
    ],
)
def test_every_second_of_every_unit_is_drawn_once(nodes, resources, rows_a_unit, node_rows):
    gantt = planned(nodes, resources, seeds__base=[0, 1, 2])
    assert (gantt.rows_a_unit, gantt.node_rows) == (rows_a_unit, node_rows)
    assert_no_two_bars_overlap(gantt)
    rows_each = round((resources.gpus or resources.cpus) * rows_a_unit)
    assert {len(bar.rows) for bar in gantt.bars} == {rows_each}
    seconds = sum(bar.end_seconds - bar.start_seconds for bar in gantt.bars)
    assert area(gantt) == pytest.approx(rows_each * seconds)


def test_without_speeds_there_is_no_schedule():
    found = design()
    schedule = foretell(found, Speeds(calibration=UNMEASURED), [Node(id="a", cpus=2)], {"w16": Resources()})
    assert planned_gantt(found, schedule, place="here") is None


def note(storage: Storage, key: str, attempt: int, outcome: str, begin: float, end: float, node: str = "n") -> None:
    record = AttemptRecord(
        attempt=attempt,
        until_step=10,
        nodes=[node],
        cpus=1.0,
        gpus=0.0,
        began_unix_ms=int(1e12 + 1000 * begin),
        ended_unix_ms=int(1e12 + 1000 * end),
        outcome=outcome,
        trained_tokens=None,
        training_seconds=None,
    )
    storage.run(key).mkdir(parents=True, exist_ok=True)
    with open(storage.run(key) / ATTEMPTS, "a") as file:
        file.write(record.model_dump_json() + "\n")


def test_what_happened_is_drawn_from_the_attempts(tmp_path):
    found, storage = design(), Storage(tmp_path)
    assert happened_gantt(found, storage) is None
    trunk, branch = found.runs[0], found.runs[1]
    note(storage, trunk.record.key, 1, "worker_died", 5, 9)
    note(storage, trunk.record.key, 2, "done", 9, 20)
    note(storage, branch.record.key, 1, "done", 12, 25, node="m")
    gantt = happened_gantt(found, storage)
    assert [(bar.start_seconds, bar.end_seconds, bar.is_done, bar.is_trunk, bar.rows) for bar in gantt.bars] == [
        (0, 4, False, True, (0,)),
        (4, 15, True, True, (0,)),
        (7, 20, True, False, (1,)),
    ]
    assert (gantt.node_rows, gantt.capacity, gantt.unit, gantt.end_seconds) == ((1, 1), 2, "core", 20)


@pytest.mark.parametrize("cores", [2, 64])
def test_files(tmp_path: Path, cores: int):
    gantt = planned([Node(id="a", cpus=cores)], Resources(), seeds__base=[0, 1])
    write_gantt(gantt, tmp_path / "g.png")
    assert (tmp_path / "g.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    write_gantt(gantt, tmp_path / "g.svg")
    text = (tmp_path / "g.svg").read_text()
    for word in ("as planned on somewhere", "w16 (23.1k)", "trunk", "on average", "cores in use"):
        assert word in text
    assert (cores == 2) == bool(re.search("w16-trunk-s0", text))
    with pytest.raises(UserError, match=r"ends in \.png or \.svg"):
        write_gantt(gantt, tmp_path / "g.pdf")
    with pytest.raises(UserError, match="can't be written"):
        write_gantt(gantt, tmp_path / "nowhere" / "g.png")
