"""A standing Ray cluster of two nodes for a sweep: the head, which runs nothing, and one that trains and can be lost."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import psutil

from tests.cluster.processes import is_alive, wait_for
from tests.cluster.ray_nodes import end, free_port, start_node
from tests.faults.sweep import Sweep, processes_of

START_SECONDS = 240.0
HEAD, SECOND = "127.0.0.2", "127.0.0.3"


class StandingCluster:
    """Use as a context manager; `sweep` is the one given, launched on this cluster."""

    def __init__(self, sweep: Sweep):
        self._address = f"{HEAD}:{free_port()}"
        self.sweep = replace(
            sweep,
            options=(*sweep.options, "--address", self._address),
            variables=sweep.variables | {"RAY_AUTH_MODE": "disabled"},
        )
        self._folder = tempfile.TemporaryDirectory(prefix="r", dir="/tmp")  # unix sockets need a short path
        self._nodes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> StandingCluster:
        port = self._address.split(":")[1]
        self._start(HEAD, "--head", f"--port={port}", "--include-dashboard=false", "--dashboard-agent-listen-port=0")
        wait_for(lambda: self._nodes_started == 1, seconds=START_SECONDS)
        self.start_second()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = [pid for node in reversed(self._nodes) for pid in end(node)]
        for process in processes_of(self.sweep):
            process.kill()
        wait_for(lambda: not any(is_alive(pid) for pid in left), seconds=20)
        self._folder.cleanup()

    def start_second(self) -> None:
        """Until it is up: on a busy machine Ray may give up on a node that is slow to start."""
        before, deadline = self._nodes_started, time.monotonic() + START_SECONDS
        while self._nodes_started == before:
            assert time.monotonic() < deadline, "the second node does not come up"
            self._start(SECOND, f"--address={self._address}", cpus=2)
            wait_for(lambda: self._nodes_started > before or self._nodes[-1].poll() is not None, seconds=START_SECONDS)

    @property
    def second_raylet(self) -> psutil.Process | None:
        """The newest node's, while it lives."""
        try:
            below = psutil.Process(self._nodes[-1].pid).children(recursive=True)
            return next((process for process in below if process.name() == "raylet"), None)
        except psutil.NoSuchProcess:
            return None

    @property
    def _nodes_started(self) -> int:
        return (Path(self._folder.name) / "start.log").read_text().count("Ray runtime started")

    def _start(self, ip: str, *arguments: str, cpus: int = 0) -> None:
        hooks = {name: value for name, value in self.sweep.hooks().items() if os.environ.get(name) != value}
        node = start_node(Path(self._folder.name), *arguments, f"--node-ip-address={ip}", cpus=cpus, variables=hooks)
        self._nodes.append(node)
