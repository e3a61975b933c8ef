"""SIGKILL for each process that a sweep leans on, and the same command again where the launch did not outlive it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import psutil

from tests.faults import ledger
from tests.faults.gates import arm, wait_until_held
from tests.faults.standing import StandingCluster
from tests.faults.sweep import Launch, Sweep
from tests.integration.tracking_server import TrackingServer

#: More launches than this, and the sweep makes no headway.
MOST_LAUNCHES = 100


class SameCommand:
    """The launch command, given again whenever it has ended before the sweep was complete."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self.launch: Launch = sweep.start()
        self.launches = 1

    def goes_on(self) -> bool:
        """Whether there is something left to launch; it is launched if so."""
        if self.launch.is_alive:
            return True
        if self.launch.process.returncode == 0:
            return False
        assert self.launches < MOST_LAUNCHES, self.launch.said
        assert "Traceback" not in self.launch.said, self.launch.said
        self.launch = self.sweep.start()
        self.launches += 1
        return True

    def result(self) -> dict[str, Any]:
        """Of the launch that completes the sweep."""
        self.launch.end()
        while self.goes_on():
            self.launch.end()
        return self.launch.result()


class Victim(Protocol):
    """What is killed, and what somebody does about it."""

    name: str

    def kill(self, command: SameCommand, worker: int) -> None:
        """Kill it while the worker with that process id is held in some state."""


class LauncherVictim:
    """The process of `isoloss launch`."""

    name = "launcher"

    def kill(self, command: SameCommand, worker: int) -> None:
        command.launch.kill()


class WorkerVictim:
    """The process that trains."""

    name = "worker"

    def kill(self, command: SameCommand, worker: int) -> None:
        psutil.Process(worker).kill()


class OwnRayletVictim:
    """The raylet of the Ray that the launcher started for itself."""

    name = "own raylet"

    def kill(self, command: SameCommand, worker: int) -> None:
        _raylet_of(worker).kill()


class NodeVictim:
    """The raylet of a standing cluster's second node. Somebody starts the node again."""

    name = "raylet"

    def __init__(self, cluster: StandingCluster):
        self._cluster = cluster

    def kill(self, command: SameCommand, worker: int) -> None:
        _raylet_of(worker).kill()
        self._cluster.start_second()


class TrackingVictim:
    """The MLflow server. Somebody starts it again."""

    name = "tracking server"

    def __init__(self, server: TrackingServer):
        self._server = server

    def kill(self, command: SameCommand, worker: int) -> None:
        self._server.down()
        self._server.up()


def kill_in_states(sweep: Sweep, victim: Victim, states: Sequence[str]) -> dict[str, Any]:
    """Kill the victim once in each state of a run, and go on to the sweep's end; the last launch's result."""
    arm(sweep.faults, states[0])
    command = SameCommand(sweep)
    for state, following in zip(states, (*states[1:], None), strict=True):
        held = wait_until_held(sweep.faults, state, alive=command.goes_on)
        ledger.write(sweep.faults, "kill", victim=victim.name, state=state)
        victim.kill(command, held.pid)
        if following is not None:
            arm(sweep.faults, following)
        held.release()
    return command.result()


def _raylet_of(worker: int) -> psutil.Process:
    return next(process for process in psutil.Process(worker).parents() if process.name() == "raylet")
