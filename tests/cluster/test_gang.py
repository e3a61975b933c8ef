"""Gangs: who may go on, who is killed, what the whole came to; and real ones of worker processes that sum by gloo."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cluster.gang import GATHER_SECONDS, SETTLE_SECONDS, Gang
from cluster.local_executor import LocalExecutor
from cluster.states import Event, Policy, State
from cluster.supervisor import Supervisor
from cluster.task import Failed, FailureKind, Outcome, Resources, Succeeded, Task
from tests.cluster import jobs
from tests.cluster.processes import is_alive, wait_for


def failed(kind: FailureKind, message: str = "as told") -> Failed:
    return Failed(kind=kind, message=message, seconds=1.0)


def gathered(world_size: int = 3) -> Gang:
    gang = Gang(world_size, host="10.0.0.7", now=0.0)
    for rank in range(world_size):
        assert gang.rendezvous is None
        gang.report(rank, 5000 + rank)
    return gang


def outcome_of(gang: Gang, ends: dict[int, Outcome], now: float = 10.0) -> Outcome | None:
    for rank, outcome in ends.items():
        gang.end(rank, outcome, now)
    return gang.outcome()


def test_all_go_on_once_all_have_reported_in_and_rank_0_speaks_for_them():
    gang = gathered()
    assert gang.rendezvous == "10.0.0.7:5000"
    assert outcome_of(gang, {2: Succeeded(value="c", seconds=3.0)}) is None
    ends: dict[int, Outcome] = {0: Succeeded(value="a", seconds=2.0), 1: Succeeded(value="b", seconds=1.0)}
    assert outcome_of(gang, ends) == Succeeded(value="a", seconds=3.0)


def test_a_member_that_never_reports_in_frees_all_after_a_while():
    gang = Gang(3, host="h", now=100.0)
    gang.report(0, 1)
    gang.report(2, 3)
    assert not gang.must_be_killed(100.0 + GATHER_SECONDS - 1)
    assert gang.must_be_killed(100.0 + GATHER_SECONDS)
    assert not gang.must_be_killed(1e9)  # it was said
    outcome = outcome_of(gang, dict.fromkeys(range(3), failed(FailureKind.WORKER_DIED)))
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.NOT_GATHERED
    assert outcome.message == "2 of 3 members reported in within 120 seconds (ranks 0, 2)"


def test_the_failure_that_tells_most_is_the_gangs():
    gang = gathered()
    gang.end(2, failed(FailureKind.CRASHED, "connection closed by peer"), 10.0)
    assert not gang.must_be_killed(10.0)  # the one that died may not have been heard of yet
    gang.end(1, failed(FailureKind.OUT_OF_MEMORY, "CUDA out of memory"), 10.1)
    assert gang.must_be_killed(10.1)
    gang.end(0, failed(FailureKind.WORKER_DIED, "killed by us"), 10.2)
    assert gang.outcome() == failed(FailureKind.OUT_OF_MEMORY, "member 1 of 3: CUDA out of memory")


def test_the_rest_is_killed_when_one_only_raised():
    gang = gathered()
    gang.end(0, failed(FailureKind.CRASHED, "ZeroDivisionError"), 10.0)
    assert gang.deadline() == 10.0 + SETTLE_SECONDS
    assert gang.must_be_killed(10.0 + SETTLE_SECONDS)


def gang_of(folder: Path, members: int = 3, **arguments: object) -> Task:
    return Task(
        id="gang",
        function=jobs.all_reduce,
        arguments={"folder": str(folder), **arguments},
        resources=Resources(cpus=1, members=members),
    )


def test_a_gang_of_processes_sums_by_gloo_and_is_restarted_whole_when_a_member_is_lost(tmp_path: Path):
    events: list[Event] = []
    with LocalExecutor(cpus=3) as executor:
        summary = Supervisor([gang_of(tmp_path, dies=1)], executor, on_event=events.append).run()
        assert summary.done["gang"] == {"sum": 3.0, "world_size": 3, "attempt": 2}
    (retry,) = [event for event in events if event.state is State.RETRYING]
    assert isinstance(retry.outcome, Failed)
    assert retry.outcome.kind is FailureKind.WORKER_DIED
    assert "member 1 of 3" in retry.outcome.message
    pids = {path.name: int(path.read_text()) for path in tmp_path.glob("[12]-*")}
    assert len(pids) == 6
    assert not any(is_alive(pid) for name, pid in pids.items() if name.startswith("1-"))


def test_a_gang_that_does_not_gather_is_let_go_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A member is stopped before it can report in."""
    with LocalExecutor(cpus=2, gather_seconds=0.7) as executor:
        spawn, spawned = executor._spawn, []

        def stop_the_second(shape: tuple[int, tuple[str, ...]]):
            worker = spawn(shape)
            spawned.append(worker.process.pid)
            if len(spawned) == 2:
                worker.process.send_signal(signal.SIGSTOP)
            return worker

        monkeypatch.setattr(executor, "_spawn", stop_the_second)
        task = gang_of(tmp_path, members=2)
        summary = Supervisor([task], executor, policy=Policy(preemptions=0)).run()
        assert summary.failed["gang"].kind is FailureKind.NOT_GATHERED
        wait_for(lambda: not any(is_alive(pid) for pid in spawned))
    assert list(tmp_path.iterdir()) == []
