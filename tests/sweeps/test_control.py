"""What people asked of a sweep: the files, and which segments a cancelled run takes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama.errors import UserError
from sweeps.control import CONTROL, Control, ask, cancelled_segments, read_control, resume
from sweeps.designs.segments import Segment
from tests.sweeps.examples import design


def test_nothing_was_asked_of_a_sweep_without_requests(tmp_path: Path) -> None:
    assert read_control(tmp_path / "absent") == Control()


def test_the_latest_request_of_a_subject_holds_and_resuming_takes_it_back(tmp_path: Path) -> None:
    ask(tmp_path, "paused")
    ask(tmp_path, "paused", ["a", "b"])
    ask(tmp_path, "cancelled", ["b"])
    asked = read_control(tmp_path)
    assert asked == Control(paused=True, paused_runs=frozenset("a"), cancelled_runs=frozenset("b"))
    assert asked.pauses("c")
    assert not asked.cancels("c")
    assert asked.cancels("b")
    resume(tmp_path)
    assert read_control(tmp_path) == Control(paused_runs=frozenset("a"), cancelled_runs=frozenset("b"))
    resume(tmp_path, ["a", "b", "never asked"])
    assert read_control(tmp_path) == Control()


def test_a_file_that_is_no_request_is_named(tmp_path: Path) -> None:
    ask(tmp_path, "cancelled")
    (tmp_path / CONTROL / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match=r"sweep\.json"):
        read_control(tmp_path)


@pytest.fixture
def one_trunk() -> list[Segment]:
    """A trunk of three stretches, and the branch that forks after each."""
    segments = design(ladder__widths=[16]).segments
    assert [segment.ends_run for segment in segments].count(True) == 3
    return segments


def branches(segments: list[Segment]) -> list[Segment]:
    return sorted((one for one in segments if one.ends_run), key=lambda one: one.end_step)


def cancelled(segments: list[Segment], *runs: Segment) -> set[str]:
    return set(cancelled_segments(Control(cancelled_runs=frozenset(run.run_key for run in runs)), segments))


def test_a_cancelled_branch_leaves_its_trunk_to_the_others(one_trunk: list[Segment]) -> None:
    first, *_ = branches(one_trunk)
    assert cancelled(one_trunk, first) == {first.id}


def test_a_trunk_ends_where_its_last_wanted_branch_forks(one_trunk: list[Segment]) -> None:
    first, middle, last = branches(one_trunk)
    gone = cancelled(one_trunk, middle, last)
    trunk = [one for one in one_trunk if not one.ends_run]
    assert {one.id for one in trunk} - gone == set(first.needs)
    assert cancelled(one_trunk, first, middle, last) == {one.id for one in one_trunk}


def test_a_cancelled_trunk_takes_its_branches_with_it(one_trunk: list[Segment]) -> None:
    trunk = next(one for one in one_trunk if not one.ends_run)
    assert cancelled(one_trunk, trunk) == {one.id for one in one_trunk}
    assert cancelled_segments(Control(cancelled=True), one_trunk) == {one.id for one in one_trunk}
    assert cancelled_segments(Control(paused=True), one_trunk) == frozenset()
