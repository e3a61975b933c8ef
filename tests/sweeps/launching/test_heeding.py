"""How a launch hears what people ask."""

from __future__ import annotations

from pathlib import Path

from cluster.states import Orders, State
from sweeps.control import CONTROL, ask, resume
from sweeps.launching.heeding import Heeding
from tests.sweeps.examples import design


def test_changes_are_told_once_and_become_orders(tmp_path: Path) -> None:
    segments = design(ladder__widths=[16]).segments
    keys = sorted({segment.run_key for segment in segments})
    said: list[str] = []
    folder = tmp_path / "mine"
    heeding = Heeding(folder, segments, {key: f"run-{n}" for n, key in enumerate(keys)}, say=said.append)
    assert heeding.orders({}).paused == frozenset()
    ask(folder, "paused")
    ask(folder, "cancelled", [keys[0]])
    for _ in range(2):
        orders = heeding.orders({})
    assert orders.paused == {segment.id for segment in segments}
    assert {segment.id for segment in segments if segment.run_key == keys[0]} <= orders.cancelled
    resume(folder)
    resume(folder, [keys[0]])
    assert heeding.orders({}).cancelled == frozenset()
    assert said == [
        "mine is paused: what runs leaves at a checkpoint, until `isoloss resume mine`",
        "cancelled: run-0",
        "mine is resumed",
        "resumed: run-0",
    ]


def test_a_file_that_cannot_be_read_is_told_and_changes_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    heeding = Heeding(tmp_path, design(ladder__widths=[16]).segments, {}, say=said.append)
    ask(tmp_path, "paused")
    before = heeding.orders({})
    (tmp_path / CONTROL / "sweep.json").write_text("paused")
    assert heeding.orders({}) == before
    assert heeding.orders({}) == before
    assert len(said) == 2
    assert "sweep.json" in said[1]


def test_that_only_paused_runs_are_left_is_told_once(tmp_path: Path) -> None:
    segments = design(ladder__widths=[16]).segments
    branch, key = segments[-1], segments[-1].run_key
    said: list[str] = []
    heeding = Heeding(tmp_path / "mine", segments, {key: "last"}, say=said.append)
    ask(tmp_path / "mine", "paused", [key])
    states = dict.fromkeys([segment.id for segment in segments], State.DONE) | {branch.id: State.PAUSED}
    heeding.orders(states | {segments[0].id: State.RUNNING})
    assert said == ["paused: last"]
    for _ in range(2):
        heeding.orders(states)
    assert said[1:] == ["waits: 1 run is paused and nothing else is left, until `isoloss resume mine --run last`"]


def test_a_measurement_is_the_whole_sweeps(tmp_path: Path) -> None:
    heeding = Heeding(tmp_path, design(ladder__widths=[16]).segments, {}, say=lambda line: None)
    ask(tmp_path, "paused")
    assert heeding.orders_for("inference") == Orders(paused=frozenset({"inference"}))
    ask(tmp_path, "cancelled")
    assert heeding.orders_for("inference") == Orders(cancelled=frozenset({"inference"}))


def test_what_was_told_before_is_not_told_again_to_a_live_view(tmp_path: Path) -> None:
    before: list[str] = []
    live: list[str] = []
    heeding = Heeding(tmp_path / "mine", design(ladder__widths=[16]).segments, {}, say=before.append)
    ask(tmp_path / "mine", "paused")
    heeding.orders({})
    with heeding.saying(live.append):
        heeding.orders({})
        resume(tmp_path / "mine")
        heeding.orders({})
    assert (len(before), live) == (1, ["mine is resumed"])
