"""How a launch hears what people ask."""

from __future__ import annotations

from pathlib import Path

from sweeps.control import CONTROL, ask, resume
from sweeps.launching.heeding import Heeding
from tests.sweeps.examples import design


def test_changes_are_told_once_and_become_orders(tmp_path: Path) -> None:
    segments = design(ladder__widths=[16]).segments
    keys = sorted({segment.run_key for segment in segments})
    said: list[str] = []
    folder = tmp_path / "mine"
    heeding = Heeding(folder, segments, {key: f"run-{n}" for n, key in enumerate(keys)}, say=said.append)
    assert heeding.orders().paused == frozenset()
    ask(folder, "paused")
    ask(folder, "cancelled", [keys[0]])
    for _ in range(2):
        orders = heeding.orders()
    assert orders.paused == {segment.id for segment in segments}
    assert {segment.id for segment in segments if segment.run_key == keys[0]} <= orders.cancelled
    resume(folder)
    resume(folder, [keys[0]])
    assert heeding.orders().cancelled == frozenset()
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
    before = heeding.orders()
    (tmp_path / CONTROL / "sweep.json").write_text("paused")
    assert heeding.orders() == before
    assert heeding.orders() == before
    assert len(said) == 2
    assert "sweep.json" in said[1]
