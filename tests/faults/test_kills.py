"""SIGKILL of each process that a sweep leans on: while a run is in each of its states, and at random moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import experiments
from tests.faults.experiments import LAUNCHER, NODE, OWN_RAYLET, TRACKING, WORKER
from tests.faults.gates import STATES
from tests.faults.sweep import Sweep

BOUNDED_SECONDS = 900


@pytest.mark.slow
@pytest.mark.timeout(BOUNDED_SECONDS)
@pytest.mark.parametrize("victim", [LAUNCHER, WORKER, OWN_RAYLET, NODE, TRACKING])
def test_killed_in_every_state(victim: str, tmp_path: Path, undisturbed: Sweep) -> None:
    assert experiments.in_states([victim], tmp_path, undisturbed).kills == len(STATES)


@pytest.mark.slow
@pytest.mark.timeout(2 * BOUNDED_SECONDS)
def test_thirty_random_kills(tmp_path: Path, undisturbed: Sweep) -> None:
    figures = experiments.at_random(tmp_path, undisturbed, kills=30, seed=5)
    assert figures.kills == 30
    assert len(figures.by_victim) == 4
