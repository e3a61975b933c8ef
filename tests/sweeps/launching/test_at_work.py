"""What the supervisor is told of runs that train."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.states import Event, State
from cluster.task import Failed, FailureKind, Task
from llama.lease import acquire
from llama.records import COMPLETE, FAILURE, Failure, checkpoint_folder, read_record
from sweeps.designs.segments import Segment
from sweeps.launching import at_work, worker
from sweeps.launching.at_work import AtWork
from sweeps.storage import Storage
from tests.sweeps.examples import design


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    one = design(ladder__widths=[16]).segments[0]
    (tmp_path / "runs" / one.run_key).mkdir(parents=True)
    return one


def event(segment: Segment, state: State, outcome: Failed | None = None) -> Event:
    return Event(seconds=0, task=task(segment), state=state, attempt=1, outcome=outcome)


def task(segment: Segment) -> Task:
    return Task(id=segment.id, function=worker.train)


def test_progress_is_the_newest_complete_checkpoint(tmp_path: Path, segment: Segment) -> None:
    following = AtWork(Storage(tmp_path), {segment.id: segment})
    assert following.progress(task(segment)) == 0
    for step in (8, 16, 24):
        checkpoint_folder(tmp_path / "runs" / segment.run_key, step).mkdir(parents=True)
        if step < 24:
            (checkpoint_folder(tmp_path / "runs" / segment.run_key, step) / COMPLETE).write_text("{}")
    assert following.progress(task(segment)) == 16


def test_a_run_that_is_held_and_silent_stalls(
    tmp_path: Path, segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_work, "HANG_SECONDS", -1.0)
    following = AtWork(Storage(tmp_path), {segment.id: segment})
    following.on_event(event(segment, State.RUNNING))
    assert not following.stalled(task(segment))  # nobody has begun
    with acquire(tmp_path / "runs" / segment.run_key, attempt=1):
        assert following.stalled(task(segment))


def test_a_failure_is_left_in_the_folder(tmp_path: Path, segment: Segment) -> None:
    following = AtWork(Storage(tmp_path), {segment.id: segment})
    following.on_event(event(segment, State.FAILED, Failed(kind=FailureKind.CRASHED, message="boom")))
    failure = read_record(tmp_path / "runs" / segment.run_key / FAILURE, Failure)
    assert failure is not None
    assert (failure.kind, failure.message, failure.final) == ("crashed", "boom", True)
