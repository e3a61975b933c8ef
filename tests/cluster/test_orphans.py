"""What a worker started ends with it: also children in sessions of their own, however the worker or its driver ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cluster.local_executor import LocalExecutor
from cluster.task import Task
from tests.cluster import jobs
from tests.cluster.processes import is_alive, wait_for

NAMES = ("near", "apart", "worker")


def pids_in(folder: Path) -> list[int]:
    return [int(wait_for(folder / name).read_text()) for name in NAMES]


@pytest.mark.parametrize("how", ["killed", "cancelled", "closed"])
def test_a_workers_children_end_with_it(tmp_path: Path, how: str):
    task = Task(id="a", function=jobs.start_children, arguments={"folder": str(tmp_path), "until": "never"})
    with LocalExecutor(cpus=1) as executor:
        executor.submit(task, 1, ["local"])
        pids = pids_in(tmp_path)
        if how == "killed":
            os.kill(pids[-1], signal.SIGKILL)
        elif how == "cancelled":
            executor.cancel("a", 1)
        else:
            executor.close()
        wait_for(lambda: not any(is_alive(pid) for pid in pids), 10)


def test_they_end_with_a_killed_driver(tmp_path: Path):
    script = textwrap.dedent("""
        import sys
        from cluster.local_executor import LocalExecutor
        from cluster.supervisor import Supervisor
        from cluster.task import Task
        from tests.cluster import jobs
        task = Task(id="a", function=jobs.start_children, arguments={"folder": sys.argv[1], "until": "never"})
        Supervisor([task], LocalExecutor(cpus=1)).run()
    """)
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2])
    pids = pids_in(tmp_path)
    driver.kill()
    driver.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in pids), 10)


def test_a_worker_ends_with_whoever_started_it(tmp_path: Path):
    """As one of Ray's whose raylet was killed, where a launcher adopts orphans."""
    worker = textwrap.dedent("""
        import os, pathlib, sys, time
        from cluster.orphans import bind_children
        bind_children()
        pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
        time.sleep(60)
    """)
    pid_file = tmp_path / "pid"
    starts = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"
    parent = subprocess.Popen([sys.executable, "-c", starts, worker, str(pid_file)], cwd=Path(__file__).parents[2])
    pid = int(wait_for(pid_file).read_text() or wait_for(lambda: pid_file.read_text()))
    parent.kill()
    parent.wait()
    wait_for(lambda: not is_alive(pid), 10)
