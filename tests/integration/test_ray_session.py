"""The supervisor on a Ray of its own, for real: deaths, hangs, cancellations, and a driver that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.executor import OWN_NODE_SECONDS, Finished
from cluster.ray_executor import RayExecutor
from cluster.session import open_session
from cluster.states import Event, Orders, Policy, State
from cluster.supervisor import Supervisor
from cluster.task import Failed, FailureKind, Resources, Succeeded, Task
from tests.cluster import jobs
from tests.cluster.processes import is_alive, wait_for

ROOT = Path(__file__).parents[2]


def settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_") or name.endswith("_THREADS")}


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    before = settings()
    with open_session(cpus=2, gpus=0) as executor:
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert executor.lost_node_seconds == OWN_NODE_SECONDS
        yield executor
    assert settings() == before


def waiting(id: str, folder: Path, until: str, **more) -> Task:
    arguments = {"folder": str(folder), "name": id, "until": until}
    return Task(id=id, function=jobs.note_and_wait, arguments=arguments, **more)


def test_it_listens_on_loopback_alone(executor: RayExecutor):
    (node,) = executor.capacity()
    assert (node.name, node.cpus, node.gpus) == ("127.0.0.1", 2, 0)
    ours = psutil.Process()
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in [ours, *ours.children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_values_kinds_and_needs(executor: RayExecutor):
    kinds = ["user_error", "non_finite", "fenced"]
    tasks = [
        Task(id="first", function=jobs.give, arguments={"value": {"loss": 2.5}}),
        Task(id="second", function=jobs.give, arguments={"value": 2}, needs=frozenset({"first"})),
        Task(id="process", function=jobs.describe_process, resources=Resources(cpus=2)),
        *[Task(id=kind, function=jobs.fail, arguments={"how": kind}) for kind in kinds],
        Task(id="crashed", function=jobs.fail, arguments={"how": "crashed"}),
        Task(id="blocked", function=jobs.give, needs=frozenset({"crashed"})),
    ]
    summary = Supervisor(tasks, executor, policy=Policy(failures=0, preemptions=0)).run()
    assert summary.done["first"] == {"loss": 2.5}
    assert summary.done["second"] == 2
    assert summary.done["process"]["threads"] == "2"
    assert {id: failure.kind for id, failure in summary.failed.items()} == {kind: kind for kind in [*kinds, "crashed"]}
    assert list(summary.blocked) == ["blocked"]


def test_a_worker_that_is_asked_to_leave_is_preempted_and_goes_on(executor: RayExecutor):
    """Ray runs tasks in a worker's main thread, where a signal is noticed."""
    events: list[Event] = []
    task = Task(id="asked", function=jobs.leave_when_asked)
    summary = Supervisor([task], executor, policy=Policy(failures=0), on_event=events.append).run()
    assert summary.done == {"asked": 2}
    lost = [event.outcome for event in events if isinstance(event.outcome, Failed)]
    assert [(failure.kind, failure.message) for failure in lost] == [(FailureKind.PREEMPTED, "Preempted: SIGTERM came")]


def test_a_killed_worker_is_retried_and_the_rest_goes_on(executor: RayExecutor, tmp_path: Path):
    tasks = [waiting("victim", tmp_path, until="go"), waiting("other", tmp_path, until="go")]
    killed: list[int] = []

    def kill_once(task: Task) -> bool:
        if task.id == "victim" and not killed and (tmp_path / "victim").exists():
            killed.append(int((tmp_path / "victim").read_text()))
            (tmp_path / "victim").unlink()
            os.kill(killed[0], signal.SIGKILL)
        return False

    retries: list[Event] = []

    def note(event: Event) -> None:
        if event.state is State.RETRYING:
            retries.append(event)
            (tmp_path / "go").touch()

    summary = Supervisor(tasks, executor, stalled=kill_once, on_event=note, policy=Policy(watch_seconds=0.05)).run()
    assert sorted(summary.done) == ["other", "victim"]
    (retry,) = retries
    assert isinstance(retry.outcome, Failed)
    assert (retry.task.id, retry.outcome.kind) == ("victim", FailureKind.WORKER_DIED)
    assert int((tmp_path / "victim").read_text()) != killed[0]


def test_a_hung_worker_is_killed_and_its_task_retried(executor: RayExecutor, tmp_path: Path):
    pids: list[int] = []

    def stalled(task: Task) -> bool:
        if not pids and (tmp_path / "hangs").exists():
            pids.append(int((tmp_path / "hangs").read_text()))
            (tmp_path / "go").touch()  # the next attempt ends; this one is cancelled first
            os.kill(pids[0], signal.SIGSTOP)
            return True
        return False

    supervisor = Supervisor(
        [waiting("hangs", tmp_path, until="go")], executor, stalled=stalled, policy=Policy(watch_seconds=0.05)
    )
    summary = supervisor.run()
    assert (list(summary.done), summary.retries) == (["hangs"], 1)
    assert not is_alive(pids[0])


def test_an_interruption_ends_the_attempts_and_a_second_run_goes_on(executor: RayExecutor, tmp_path: Path):
    tasks = [waiting("a", tmp_path, until="go"), waiting("b", tmp_path, until="go")]

    def interrupt(task: Task) -> bool:
        if all((tmp_path / id).exists() for id in "ab"):
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        Supervisor(tasks, executor, stalled=interrupt, policy=Policy(watch_seconds=0.05)).run()
    assert executor._attempts == {}
    (tmp_path / "go").touch()
    assert Supervisor(tasks, executor).run().ok


def test_a_gang_sums_by_gloo_and_is_restarted_whole_when_a_member_is_lost(executor: RayExecutor, tmp_path: Path):
    retries: list[Event] = []
    task = Task(
        id="gang",
        function=jobs.all_reduce,
        arguments={"folder": str(tmp_path), "dies": 1},
        resources=Resources(cpus=1, members=2),
    )
    note = lambda event: retries.append(event) if event.state is State.RETRYING else None  # noqa: E731
    summary = Supervisor([task], executor, on_event=note).run()
    assert summary.done["gang"] == {"sum": 1.0, "world_size": 2, "attempt": 2}
    (retry,) = retries
    assert isinstance(retry.outcome, Failed)
    assert (retry.outcome.kind, "member 1 of 2" in retry.outcome.message) == (FailureKind.WORKER_DIED, True)
    assert not is_alive(int((tmp_path / "1-0").read_text()))
    assert Supervisor([Task(id="wide", function=jobs.give, resources=Resources(cpus=2))], executor).run().ok


def test_a_gang_for_which_ray_has_no_room_is_let_go(executor: RayExecutor, tmp_path: Path):
    """Somebody else holds a core of which the supervisor knows nothing."""
    (node,) = executor.capacity()
    impatient = RayExecutor(gather_seconds=2.0)
    impatient.capacity()
    executor.submit(waiting("other", tmp_path, until="go"), 1, [node.id])
    wait_for(tmp_path / "other")
    gang = Task(id="gang", function=jobs.give, resources=Resources(cpus=1, members=2))
    summary = Supervisor([gang], impatient, policy=Policy(preemptions=0)).run()
    assert summary.failed["gang"].kind is FailureKind.NOT_GATHERED
    (tmp_path / "go").touch()
    wait_for(lambda: executor.poll(1.0))
    assert Supervisor([Task(id="wide", function=jobs.give, resources=Resources(cpus=2))], executor).run().ok


def test_a_paused_task_leaves_and_goes_on(executor: RayExecutor, tmp_path: Path):
    task = Task(id="a", function=jobs.wait_to_be_asked, arguments={"folder": str(tmp_path)})
    ever_paused: list[Event] = []

    def note(event: Event) -> None:
        if event.state is State.PAUSED:
            ever_paused.append(event)

    def orders() -> Orders:
        return Orders(paused=frozenset({"a"}) if (tmp_path / "1").exists() and not ever_paused else frozenset())

    supervisor = Supervisor([task], executor, orders=orders, on_event=note, policy=Policy(watch_seconds=0.05))
    summary = supervisor.run()
    assert (summary.done, summary.retries) == ({"a": 2}, 0)
    (paused,) = ever_paused
    assert isinstance(paused.outcome, Failed)
    assert paused.outcome.message == "Preempted: SIGUSR1 came"


def test_a_killed_workers_children_end_with_it(executor: RayExecutor, tmp_path: Path):
    (node,) = executor.capacity()
    task = Task(id="a", function=jobs.start_children, arguments={"folder": str(tmp_path), "until": "never"})
    executor.submit(task, 1, [node.id])
    pids = [int(wait_for(tmp_path / name).read_text()) for name in ("near", "apart", "worker")]
    os.kill(pids[-1], signal.SIGKILL)
    wait_for(lambda: executor.poll(1.0))
    wait_for(lambda: not any(is_alive(pid) for pid in pids), 10)


def test_an_attempt_on_a_node_that_is_gone_is_a_lost_node(executor: RayExecutor):
    (node,) = executor.capacity()
    gone = "0" * len(node.id)
    executor._nodes[gone] = node
    executor.submit(Task(id="a", function=jobs.give), 1, [gone])
    finished: list[Finished] = []
    wait_for(lambda: finished.extend(executor.poll(1.0)) or finished)
    assert isinstance(finished[0].outcome, Failed)
    assert finished[0].outcome.kind is FailureKind.NODE_LOST
    executor.capacity()


def test_workers_are_reused(executor: RayExecutor):
    tasks = [Task(id=str(index), function=jobs.describe_process) for index in range(40)]
    pids = {value["pid"] for value in Supervisor(tasks, executor).run().done.values()}
    assert len(pids) <= 3


def test_a_killed_driver_takes_its_ray_with_it_and_a_second_run_completes(tmp_path: Path):
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from cluster.session import open_session
        from cluster.states import State
        from cluster.supervisor import Supervisor
        from cluster.task import Succeeded, Task
        from tests.cluster import jobs
        folder = Path(sys.argv[1])
        tasks = [Task(id="quick", function=jobs.give)]
        for name in ("a", "b"):
            waits = {"folder": str(folder), "name": name, "until": "go"}
            tasks.append(Task(id=name, function=jobs.note_and_wait, arguments=waits, needs=frozenset({"quick"})))
        def note(event):
            if event.state is State.DONE:
                (folder / f"{event.task.id}.done").touch()
        def is_done(task):
            return (folder / f"{task.id}.done").exists()
        with open_session(cpus=2, gpus=0) as executor:
            summary = Supervisor(tasks, executor, is_done=is_done, on_event=note).run()
        print(sorted(summary.done), summary.skipped)
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    workers = [int(wait_for(tmp_path / name, 60).read_text()) for name in ("a", "b")]
    below = psutil.Process(driver.pid).children(recursive=True)
    assert {process.pid for process in below}.issuperset(workers)
    folders = {argument for process in below for argument in process.cmdline() if "isoloss-ray-" in argument}
    assert folders
    driver.kill()
    driver.wait()
    wait_for(lambda: not any(is_alive(process.pid) for process in below), seconds=10)
    session_folders = [Path(argument.split("=", 1)[1]) for argument in folders if argument.startswith("--log_dir=")]
    assert session_folders
    wait_for(lambda: not any(folder.exists() for folder in session_folders), seconds=10)
    (tmp_path / "go").touch()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout.splitlines()[-1] == "['a', 'b'] ('quick',)"


def test_outcomes_carry_the_seconds_inside_the_function(executor: RayExecutor):
    (node,) = executor.capacity()
    executor.submit(Task(id="a", function=jobs.give, arguments={"value": 1}), 7, [node.id])
    finished: list[Finished] = []
    wait_for(lambda: finished.extend(executor.poll(1.0)) or finished)
    assert (finished[0].task_id, finished[0].attempt) == ("a", 7)
    assert isinstance(finished[0].outcome, Succeeded)
    assert 0 <= finished[0].outcome.seconds < 30
