"""Nodes of a standing Ray cluster on loopback, each a process that can be killed with all below it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from cluster.session import KEEPALIVE_SETTINGS

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_node(
    folder: Path, *arguments: str, cpus: int = 1, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """`ray start` in the foreground, without a token, on loopback; its processes are all below it."""
    ray = Path(sys.executable).with_name("ray")
    common = [f"--num-cpus={cpus}", "--object-store-memory=80000000", "--disable-usage-stats", "--block"]
    environment = {
        **os.environ,
        **KEEPALIVE_SETTINGS,
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
        **(variables or {}),
    }
    with open(folder / "start.log", "ab") as log:
        return subprocess.Popen([ray, "start", *common, *arguments], env=environment, stdout=log, stderr=log)


def end(process: subprocess.Popen[bytes]) -> list[int]:
    """Kill it and all below it, by id; the ids of what was below."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        for one in [psutil.Process(process.pid), *below]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        return [one.pid for one in below]
    return []
