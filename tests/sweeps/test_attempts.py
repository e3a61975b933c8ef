"""What the launcher notes of attempts."""

import pytest

from cluster.states import Event, State
from cluster.task import Failed, FailureKind, Resources, Succeeded, Task
from sweeps.attempts import ATTEMPTS, AttemptLog, read_attempts
from sweeps.launching import worker
from sweeps.storage import Storage
from tests.sweeps.examples import design


@pytest.fixture
def segment(tmp_path):
    one = design().segments[0]
    (tmp_path / "runs" / one.run_key).mkdir(parents=True)
    return one


def event(segment, state, attempt=1, outcome=None):
    task = Task(id=segment.id, function=worker.train, resources=Resources(cpus=2, gpus=0.5))
    nodes = ("n1",) if state is State.RUNNING else ()
    return Event(seconds=0, task=task, state=state, attempt=attempt, node_ids=nodes, outcome=outcome)


def test_each_attempt_leaves_a_line_with_its_end(tmp_path, segment):
    died = Failed(kind=FailureKind.WORKER_DIED, message="SIGKILL")
    done = Succeeded(value={"trained_tokens": 2048, "training_seconds": 1.5, "trained_steps": 2})
    with AttemptLog(Storage(tmp_path), {segment.id: segment}) as log:
        for one in (
            event(segment, State.READY),
            event(segment, State.RUNNING),
            event(segment, State.RETRYING, outcome=died),
            event(segment, State.READY),
            event(segment, State.RUNNING, attempt=2),
            event(segment, State.DONE, attempt=2, outcome=done),
        ):
            log.on_event(one)
    first, second = read_attempts(tmp_path / "runs" / segment.run_key)
    assert (first.attempt, first.outcome, first.training_seconds, first.nodes) == (1, "worker_died", None, ["n1"])
    assert (second.attempt, second.outcome, second.trained_tokens, second.training_seconds) == (2, "done", 2048, 1.5)
    assert (second.cpus, second.gpus, second.until_step) == (2, 0.5, segment.end_step)
    assert first.began_unix_ms <= first.ended_unix_ms <= second.began_unix_ms <= second.ended_unix_ms


def test_what_runs_as_the_launcher_leaves_was_interrupted(tmp_path, segment):
    with AttemptLog(Storage(tmp_path), {segment.id: segment}) as log:
        log.on_event(event(segment, State.RUNNING))
    (one,) = read_attempts(tmp_path / "runs" / segment.run_key)
    assert one.outcome == "interrupted"


def test_a_line_that_was_cut_short_costs_that_line_alone(tmp_path, segment):
    folder = tmp_path / "runs" / segment.run_key
    with AttemptLog(Storage(tmp_path), {segment.id: segment}) as log:
        log.on_event(event(segment, State.RUNNING))
        log.on_event(event(segment, State.PAUSED, outcome=Failed(kind=FailureKind.PREEMPTED, message="left")))
    whole = (folder / ATTEMPTS).read_text()
    (folder / ATTEMPTS).write_text(whole + whole[:30] + "\n" + whole)
    assert [one.outcome for one in read_attempts(folder)] == ["preempted", "preempted"]
    assert read_attempts(tmp_path / "nowhere") == []


def test_what_follows_a_line_that_was_cut_short_has_a_line_of_its_own(tmp_path, segment):
    folder = tmp_path / "runs" / segment.run_key
    (folder / ATTEMPTS).write_text('{"attempt": 1, "unti')
    with AttemptLog(Storage(tmp_path), {segment.id: segment}) as log:
        log.on_event(event(segment, State.RUNNING, attempt=2))
    assert [one.attempt for one in read_attempts(folder)] == [2]
    assert len((folder / ATTEMPTS).read_text().splitlines()) == 2


def test_a_run_without_a_folder_is_passed_over(tmp_path):
    one = design().segments[0]
    with AttemptLog(Storage(tmp_path), {one.id: one}) as log:
        log.on_event(event(one, State.RUNNING))
        log.on_event(event(one, State.FAILED, outcome=Failed(kind=FailureKind.CRASHED, message="x")))
    assert not (tmp_path / "runs").exists()
