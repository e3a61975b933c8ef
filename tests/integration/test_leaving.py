"""A launcher that is asked to leave while its Ray starts: it exits as asked, and nothing of Ray is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.cluster.processes import is_alive, wait_for

SCRIPT = textwrap.dedent("""
    import os, signal, sys, threading, time
    import ray
    from cluster.session import open_session
    from cluster.signals import signals_exit

    init = ray.init

    def init_and_be_asked(**options):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        print("connecting", flush=True)
        return init(**options)

    if sys.argv[1] == "connecting":
        ray.init = init_and_be_asked
    with signals_exit(), open_session(cpus=1, gpus=0):
        time.sleep(60)
""")


# On a busy machine the second may end with 1, a minute late: Ray's core gives up on a head that has left already.
@pytest.mark.parametrize("moment", ["starting", pytest.param("connecting", marks=pytest.mark.slow)])
def test_sigterm_while_ray_starts_exits_143_and_leaves_nothing(moment: str):
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, moment],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process = psutil.Process(driver.pid)
    try:
        if moment == "connecting":
            assert driver.stdout is not None
            assert driver.stdout.readline() == "connecting\n"
            below = process.children(recursive=True)
        else:
            wait_for(lambda: process.children(recursive=True), 60)  # the head's keeper
            below = process.children(recursive=True)
            driver.send_signal(signal.SIGTERM)
        _, said = driver.communicate(timeout=120)
    finally:
        driver.kill()
        driver.wait()
    assert (driver.returncode, "SIGTERM received" in said) == (143, False), said
    assert below
    wait_for(lambda: not any(is_alive(child.pid) for child in below), 10)
