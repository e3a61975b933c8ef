"""NVIDIA's Multi-Process Service: kernels of several processes run on a GPU at once, where without it they take turns.

`sharing_gpus` starts a control daemon of our own, with its own pipe directory, and ends it with the `with` statement. Between
us and the daemon stands a keeper, `python -m cluster.mps BINARY`, which ends it when its standard input closes: so the daemon
ends with the launcher, however that ends. Source: NVIDIA's "Multi-Process Service", section 4.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
PIPE_DIRECTORY, LOG_DIRECTORY = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
_START_SECONDS = 5.0
_STOP_SECONDS = 10.0


@contextmanager
def sharing_gpus(say: Callable[[str], None]) -> Iterator[bool]:
    """Whether processes started inside share GPUs through MPS; `say` gets one line on it. Without the daemon they share them
    all the same, in turns.
    """
    if os.environ.get(PIPE_DIRECTORY):
        say(f"runs share a GPU through the MPS at {os.environ[PIPE_DIRECTORY]}")
        yield True
        return
    binary = shutil.which(CONTROL)
    if binary is None:
        say(f"runs share a GPU in turns: {CONTROL} is not installed, and MPS would let them run at once")
        yield False
        return
    with tempfile.TemporaryDirectory(prefix="isoloss-mps-") as folder:
        settings = {PIPE_DIRECTORY: str(Path(folder, "pipe")), LOG_DIRECTORY: str(Path(folder, "log"))}
        for directory in settings.values():
            Path(directory).mkdir()
        with _daemon(binary, settings) as trouble:
            if trouble is not None:
                say(f"runs share a GPU in turns: {CONTROL} did not start ({trouble})")
                yield False
                return
            say("runs share a GPU through MPS")
            os.environ.update(settings)
            try:
                yield True
            finally:
                for name in settings:
                    os.environ.pop(name, None)


@contextmanager
def _daemon(binary: str, settings: dict[str, str]) -> Iterator[str | None]:
    """Start it through its keeper; yields what went wrong, if anything did."""
    keeper = subprocess.Popen(
        [sys.executable, "-P", "-m", "cluster.mps", binary],
        env={**os.environ, **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the launcher
    )
    try:
        yield _trouble(keeper, Path(settings[PIPE_DIRECTORY]))
    finally:
        assert keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            keeper.stdin.close()
        try:
            keeper.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        if keeper.stderr is not None:
            keeper.stderr.close()


def _trouble(keeper: subprocess.Popen[str], pipes: Path) -> str | None:
    """Wait for the daemon to open its pipes; None once it has."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if keeper.poll() is not None:
            said = keeper.stderr.read().strip().splitlines() if keeper.stderr is not None else []
            return said[-1] if said else f"exit code {keeper.returncode}"
        if any(pipes.iterdir()):
            return None
        time.sleep(0.05)
    return f"no pipe after {_START_SECONDS:g} seconds"


def _keep(binary: str) -> int:
    """The daemon in the foreground, until it ends or standard input closes."""
    daemon = subprocess.Popen([binary, "-f"], stdin=subprocess.DEVNULL)
    while daemon.poll() is None:
        if _is_closed(0.2):
            with contextlib.suppress(subprocess.TimeoutExpired, OSError):  # in good order, with its servers
                subprocess.run([binary], input="quit\n", text=True, timeout=_STOP_SECONDS / 2, check=False)
            daemon.terminate()
            break
    return daemon.wait()


def _is_closed(wait_seconds: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], wait_seconds)
    return bool(ready) and not sys.stdin.readline()


if __name__ == "__main__":
    sys.exit(_keep(sys.argv[1]))
