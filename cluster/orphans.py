"""A worker ends with the process that started it, and its children end with it, however it ends: a data loader, a compiler, a
trainer of somebody else's that it started.

Linux ends no child for its parent's sake, and a child in a session of its own, as torchrun makes them, outlives even the
killing of a process group: it would hold its GPU's memory until somebody finds it. So each worker has a small watcher, a
process of about 10 MB, that waits for the worker's end and then kills what it left: all of its process group, and every
process that has the worker's mark among its environment variables, which children inherit. The watcher ends the worker when
its parent ends, too: Ray's workers look for a parent with process id 1, and where a launcher adopts orphans they would train
on without their raylet. Linux only; elsewhere nothing is done.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
from pathlib import Path

_MARK = "ISOLOSS_WORKER"
_bound_pid: int | None = None


def bind_children() -> None:
    """Have this process killed when its parent ends, and all children that it starts from now on when it ends itself. Does
    nothing the second time.
    """
    global _bound_pid
    if _bound_pid == os.getpid() or sys.platform != "linux":
        return
    _bound_pid = os.getpid()
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    unmarked = {name: value for name, value in os.environ.items() if name != _MARK}
    os.environ[_MARK] = secrets.token_hex(16)
    subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(os.getppid()), os.environ[_MARK]],
        env=unmarked,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _watch(pid: int, parent_pid: int, mark: str) -> None:
    with contextlib.suppress(ProcessLookupError):  # one of them has ended already
        both = [os.pidfd_open(pid), os.pidfd_open(parent_pid)]
        if os.getppid() == pid:
            select.select(both, [], [])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    while marked := _marked(f"{_MARK}={mark}".encode()):  # until none is left that could start another
        for child in marked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _marked(entry: bytes) -> list[int]:
    """Living processes of this user that were started with that entry in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
            environment = (process / "environ").read_bytes()  # empty for one that only waits to be reaped
            if entry in environment.split(b"\0"):
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    _watch(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
