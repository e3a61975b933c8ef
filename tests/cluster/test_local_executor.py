"""Worker processes of this machine, for real: reuse, deaths, GPUs, and that nothing outlives its driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.executor import Finished
from cluster.local_executor import LocalExecutor
from cluster.states import State
from cluster.supervisor import Supervisor
from cluster.task import Failed, FailureKind, Outcome, Resources, Succeeded, Task
from tests.cluster import jobs
from tests.cluster.processes import is_alive, wait_for

GPU_NAMES = ["4", "7"]


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(cpus=2, gpus=GPU_NAMES) as executor:
        yield executor


def describe(id: str, resources: Resources) -> Task:
    return Task(id=id, function=jobs.describe_process, resources=resources)


def finish(executor: LocalExecutor, task: Task, attempt: int = 1) -> Outcome:
    executor.submit(task, attempt, ["local"])
    return wait_finished(executor).outcome


def wait_finished(executor: LocalExecutor) -> Finished:
    finished: list[Finished] = []
    while not finished:
        finished = executor.poll(5.0)
    (one,) = finished
    return one


def value_of(outcome: Outcome) -> dict:
    assert isinstance(outcome, Succeeded)
    return outcome.value


def test_workers_are_reused_and_have_the_threads_of_their_task(executor: LocalExecutor):
    one = Resources(cpus=1)
    first, second = (value_of(finish(executor, describe(id, one))) for id in "ab")
    assert first == second
    assert (first["threads"], first["gpus"]) == ("1", "")
    wide = value_of(finish(executor, describe("c", Resources(cpus=2))))
    assert (wide["threads"], wide["pid"] == first["pid"]) == ("2", False)


def test_gpus_are_given_by_name_and_shares_of_one_go_together(executor: LocalExecutor):
    seen = []
    for id, gpus in [("a", 0.5), ("b", 0.5), ("c", 1)]:
        executor.submit(describe(id, Resources(gpus=gpus)), 1, ["local"])
    while len(seen) < 3:
        seen += executor.poll(5.0)
    assert {one.task_id: value_of(one.outcome)["gpus"] for one in seen} == {"a": "4", "b": "4", "c": "7"}
    assert value_of(finish(executor, describe("d", Resources(gpus=2))))["gpus"] == "4,7"


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGKILL, FailureKind.WORKER_DIED), (signal.SIGTERM, FailureKind.PREEMPTED)]
)
def test_a_death_is_an_outcome_that_quotes_the_last_words(executor: LocalExecutor, number: int, kind: FailureKind):
    dies = Task(id="a", function=jobs.kill_own_process, arguments={"on_attempts": 1, "number": number})
    outcome = finish(executor, dies)
    assert isinstance(outcome, Failed)
    assert outcome.kind is kind
    assert outcome.message.endswith(f"ended by {signal.Signals(number).name}")
    assert outcome.traceback == "last words"
    assert finish(executor, dies, attempt=2) == Succeeded(value=2, seconds=pytest.approx(0, abs=60))


def test_cancelling_kills_the_worker_and_poll_says_so(executor: LocalExecutor, tmp_path: Path):
    waits = {"folder": str(tmp_path), "name": "pid", "until": "never"}
    executor.submit(Task(id="a", function=jobs.note_and_wait, arguments=waits), 1, ["local"])
    pid = int(wait_for(tmp_path / "pid").read_text())
    executor.cancel("a", 1)
    assert isinstance(wait_finished(executor).outcome, Failed)
    assert not is_alive(pid)


def test_closing_ends_every_worker(tmp_path: Path):
    executor = LocalExecutor(cpus=2)
    waits = {"folder": str(tmp_path), "name": "pid", "until": "never"}
    idle = value_of(finish(executor, describe("idle", Resources())))["pid"]
    executor.submit(Task(id="a", function=jobs.note_and_wait, arguments=waits), 1, ["local"])
    executor.submit(Task(id="b", function=jobs.note_and_wait, arguments={**waits, "name": "other"}), 1, ["local"])
    pids = [int(wait_for(tmp_path / name).read_text()) for name in ("pid", "other")]
    executor.close()
    assert [is_alive(pid) for pid in (idle, *pids)] == [False] * 3


def test_the_supervisor_goes_on_after_a_death(executor: LocalExecutor):
    tasks = [
        Task(id="dies", function=jobs.kill_own_process, arguments={"on_attempts": 2}),
        Task(id="next", function=jobs.give, arguments={"value": "made"}, needs=frozenset({"dies"})),
        Task(id="wrong", function=jobs.fail, arguments={"how": "user_error"}),
        Task(id="after", function=jobs.give, needs=frozenset({"wrong"})),
    ]
    supervisor = Supervisor(tasks, executor)
    summary = supervisor.run()
    assert summary.done == {"dies": 3, "next": "made"}
    assert summary.retries == 2
    assert summary.failed["wrong"].message == "sweep.yaml line 3: lr is -1"
    assert supervisor.states["after"] is State.BLOCKED


def test_no_worker_outlives_a_killed_driver(tmp_path: Path):
    script = textwrap.dedent("""
        import sys
        from cluster.local_executor import LocalExecutor
        from cluster.supervisor import Supervisor
        from cluster.task import Task
        from tests.cluster import jobs
        waits = {"folder": sys.argv[1], "until": "never"}
        tasks = [Task(id=name, function=jobs.note_and_wait, arguments={**waits, "name": name}) for name in ("a", "b")]
        Supervisor(tasks, LocalExecutor(cpus=2)).run()
    """)
    root = Path(__file__).parents[2]
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root, env=os.environ)
    pids = [int(wait_for(tmp_path / name).read_text()) for name in ("a", "b")]
    driver.kill()
    driver.wait()
    for pid in pids:
        wait_for(lambda pid=pid: not is_alive(pid))
