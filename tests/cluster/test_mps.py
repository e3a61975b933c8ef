"""The GPU-sharing daemon, by a stand-in for NVIDIA's binary: started with its own pipes, ended with us, done without."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.mps import CONTROL, PIPE_DIRECTORY, sharing_gpus

#: Writes its pid, opens its pipe, and waits for the word, as the daemon does.
DAEMON = """#!/bin/sh
if [ "$1" != "-f" ]; then read word; echo "$word" >> "$NOTES/words"; exit 0; fi
echo $$ > "$NOTES/pid"
: > "$CUDA_MPS_PIPE_DIRECTORY/control"
while true; do sleep 0.05; done
"""
BROKEN = """#!/bin/sh
echo "no CUDA device" >&2
exit 1
"""


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / CONTROL
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.delenv(PIPE_DIRECTORY, raising=False)
    return path


def put(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while not is_gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_daemon_has_its_own_pipes_and_ends_with_us(binary: Path, tmp_path: Path) -> None:
    put(binary, DAEMON)
    said: list[str] = []
    with sharing_gpus(said.append) as shared:
        assert shared
        pipes = Path(os.environ[PIPE_DIRECTORY])
        assert (pipes / "control").exists()
        pid = int((tmp_path / "pid").read_text())
        assert not is_gone(pid)
    wait_until_gone(pid)
    assert (tmp_path / "words").read_text() == "quit\n"
    assert PIPE_DIRECTORY not in os.environ
    assert not pipes.exists()
    assert said == ["runs share a GPU through MPS"]


def test_the_daemon_ends_with_a_launcher_that_is_killed(binary: Path, tmp_path: Path) -> None:
    put(binary, DAEMON)
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\nfrom cluster.mps import sharing_gpus\nwith sharing_gpus(print): time.sleep(60)",
        ],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    wait_until_gone(int((tmp_path / "pid").read_text()))


def test_without_the_binary_runs_take_turns_and_it_is_said(binary: Path) -> None:
    said: list[str] = []
    with sharing_gpus(said.append) as shared:
        assert not shared
        assert PIPE_DIRECTORY not in os.environ
    assert said == [f"runs share a GPU in turns: {CONTROL} is not installed, and MPS would let them run at once"]


def test_a_daemon_that_does_not_start_is_done_without(binary: Path) -> None:
    put(binary, BROKEN)
    said: list[str] = []
    with sharing_gpus(said.append) as shared:
        assert not shared
    assert said == [f"runs share a GPU in turns: {CONTROL} did not start (no CUDA device)"]


def test_a_daemon_that_is_there_already_is_used(binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PIPE_DIRECTORY, "/tmp/somebodys-mps")
    said: list[str] = []
    with sharing_gpus(said.append) as shared:
        assert shared
    assert said == ["runs share a GPU through the MPS at /tmp/somebodys-mps"]
