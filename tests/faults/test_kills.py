"""SIGKILL of each process that a sweep leans on, while a run is in each of its states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.gates import STATES
from tests.faults.invariants import assert_recovered
from tests.faults.kills import (
    LauncherVictim,
    NodeVictim,
    OwnRayletVictim,
    TrackingVictim,
    Victim,
    WorkerVictim,
    kill_in_states,
)
from tests.faults.standing import StandingCluster
from tests.faults.sweep import Sweep
from tests.integration.tracking_server import TrackingServer

BOUNDED_SECONDS = 900


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TrackingServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = TrackingServer(folder)
    server.up()
    yield server
    server.down()


@pytest.mark.slow
@pytest.mark.timeout(BOUNDED_SECONDS)
@pytest.mark.parametrize(
    "victim", [LauncherVictim(), WorkerVictim(), OwnRayletVictim()], ids=lambda victim: victim.name
)
def test_killed_in_every_state(sweep: Sweep, undisturbed: Sweep, victim: Victim) -> None:
    kill_in_states(sweep, victim, STATES)
    assert_recovered(sweep, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(BOUNDED_SECONDS)
def test_a_node_killed_in_every_state(sweep: Sweep, undisturbed: Sweep) -> None:
    with StandingCluster(sweep) as cluster:
        kill_in_states(cluster.sweep, NodeVictim(cluster), STATES)
        assert_recovered(sweep, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(BOUNDED_SECONDS)
def test_a_tracking_server_killed_in_every_state(sweep: Sweep, undisturbed: Sweep, server: TrackingServer) -> None:
    tracked = replace(sweep, options=("--tracking-uri", server.uri))
    kill_in_states(tracked, TrackingVictim(server), STATES)
    assert_recovered(sweep, undisturbed, database=server.database)


def test_a_worker_and_the_tracking_server_killed_while_a_run_trains(
    sweep: Sweep, undisturbed: Sweep, server: TrackingServer
) -> None:
    tracked = replace(sweep, options=("--tracking-uri", server.uri))

    class Both:
        name = "worker and tracking server"

        def kill(self, command, worker: int) -> None:
            WorkerVictim().kill(command, worker)
            TrackingVictim(server).kill(command, worker)

    kill_in_states(tracked, Both(), ["training"])
    assert_recovered(sweep, undisturbed, database=server.database)
