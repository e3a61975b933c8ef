"""SIGKILL for each process that a sweep leans on, and the same command again where the launch did not outlive it."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import psutil

from tests.cluster.processes import is_alive, wait_for
from tests.faults import ledger
from tests.faults.gates import arm, wait_until_held
from tests.faults.standing import StandingCluster
from tests.faults.sweep import Launch, Sweep
from tests.integration.tracking_server import TrackingServer

#: More launches than this, and the sweep makes no headway.
MOST_LAUNCHES = 100
#: Until everybody who leans on a raylet has noticed that it is gone.
RAYLET_SECONDS = 180.0


#: A launch that has trained everything and lost its Ray while it measured ends with 0, and says this.
UNMEASURED = "launch again to measure it"


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
        if self.launch.process.returncode == 0 and UNMEASURED not in self.launch.said:
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
        """Kill it, while the worker with that process id trains."""


class LauncherVictim:
    """The process of `isoloss launch`."""

    name = "launcher"

    def kill(self, command: SameCommand, worker: int) -> None:
        command.launch.kill()


class WorkerVictim:
    """The process that trains."""

    name = "worker"

    def kill(self, command: SameCommand, worker: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it came to its end this moment
            psutil.Process(worker).kill()


class OwnRayletVictim:
    """The raylet of the Ray that the launcher started for itself: the launch ends, and its workers with it."""

    name = "launcher's raylet"

    def kill(self, command: SameCommand, worker: int) -> None:
        next(process for process in psutil.Process(worker).parents() if process.name() == "raylet").kill()
        wait_for(lambda: not is_alive(worker), seconds=RAYLET_SECONDS)
        assert command.launch.end(RAYLET_SECONDS) != 0 or UNMEASURED in command.launch.said, command.launch.said


class NodeVictim:
    """The raylet of a standing cluster's second node: its workers go with it. Somebody starts the node again."""

    name = "node's raylet"

    def __init__(self, cluster: StandingCluster):
        self._cluster = cluster

    def kill(self, command: SameCommand, worker: int) -> None:
        wait_for(lambda: self._cluster.second_raylet is not None, seconds=RAYLET_SECONDS)
        raylet = self._cluster.second_raylet
        assert raylet is not None
        raylet.kill()
        wait_for(lambda: not is_alive(worker), seconds=RAYLET_SECONDS)
        self._cluster.start_second()


class TrackingVictim:
    """The MLflow server. Somebody starts it again, and training doesn't wait for that."""

    name = "tracking server"

    def __init__(self, server: TrackingServer):
        self._server = server
        self._comes_back = threading.Thread(target=server.up)

    def kill(self, command: SameCommand, worker: int) -> None:
        self.wait_until_back()
        self._server.down()
        self._comes_back = threading.Thread(target=self._server.up)
        self._comes_back.start()

    def wait_until_back(self) -> None:
        if self._comes_back.is_alive():
            self._comes_back.join()


def kill_in_states(sweep: Sweep, victims: Sequence[Victim], states: Sequence[str]) -> dict[str, Any]:
    """Kill the victims once in each state of a run, and go on to the sweep's end; the last launch's result."""
    arm(sweep.faults, states[0])
    command = SameCommand(sweep)
    for state, following in zip(states, (*states[1:], None), strict=True):
        held = wait_until_held(sweep.faults, state, alive=command.goes_on)
        for victim in victims:
            ledger.write(sweep.faults, "kill", victim=victim.name, state=state)
            victim.kill(command, held.pid)
        if following is not None:
            arm(sweep.faults, following)
        held.release()
    return _complete(command, victims)


def kill_at_random(sweep: Sweep, victims: Sequence[Victim], *, kills: int, steps: int, seed: int) -> dict[str, Any]:
    """Kill one of the victims at so many moments, spread over the `steps` that the sweep takes; the last launch's result.

    Three of four wait until the sweep has made its share of new steps; the fourth comes soon after the one before, while what
    that one killed is coming back.
    """
    draw = random.Random(seed)
    command = SameCommand(sweep)
    for number in range(kills):
        victim = draw.choice(victims)
        if number % 4 != 3:
            goal = number * steps // (kills + 2)
            _wait(lambda goal=goal: len(_steps_made(sweep)) >= goal, command)  # type: ignore[misc]
        time.sleep(draw.uniform(0.0, 1.0))
        if not isinstance(victim, LauncherVictim):
            _wait(lambda: _training_worker(sweep) is not None, command)
        worker = _training_worker(sweep) or 0
        ledger.write(sweep.faults, "kill", victim=victim.name)
        victim.kill(command, worker)
    return _complete(command, victims)


def _complete(command: SameCommand, victims: Sequence[Victim]) -> dict[str, Any]:
    """Go on to the sweep's end. A launch that ended while MLflow was away has said so: the same command makes up for it."""
    result = command.result()
    for victim in victims:
        if isinstance(victim, TrackingVictim):
            victim.wait_until_back()
    return command.sweep.finish() if result["mirror_trouble"] else result


def _wait(condition: Callable[[], bool], command: SameCommand) -> None:
    while not condition():
        assert command.goes_on(), "the sweep is complete, and not all kills were made"
        time.sleep(0.05)


def _steps_made(sweep: Sweep) -> set[tuple[str, int]]:
    return {(entry.run, entry.step) for entry in ledger.read(sweep.faults) if entry.kind == "step"}


def _training_worker(sweep: Sweep) -> int | None:
    """The live process that made the latest step, if it has not gone on to something else."""
    pids = [entry.pid for entry in ledger.read(sweep.faults)[-20:] if entry.kind != "kill"]
    return next((pid for pid in reversed(pids) if is_alive(pid)), None)
