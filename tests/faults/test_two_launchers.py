"""Two launchers at once: on one sweep, and on two sweeps that share their runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.invariants import assert_recovered
from tests.faults.sweep import SMALL, Sweep, make_sweep


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_launchers_of_one_sweep_at_the_same_moment(sweep: Sweep, undisturbed: Sweep) -> None:
    """The one that is too late is refused, or waits where it was told to."""
    plain, waiting = sweep.start(), replace(sweep, options=("--wait",)).start()
    waiting.result()
    if plain.end() != 0:
        assert f"is being launched by process {waiting.process.pid} on" in plain.refusal()
    assert_recovered(sweep, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_launchers_of_two_sweeps_that_share_their_runs(sweep: Sweep, undisturbed: Sweep) -> None:
    """Each run is trained by one of them, and both show all of it."""
    database = sweep.folder / "twin.db"
    twin = make_sweep(sweep.folder, SMALL | {"name": "twin"}, options=("--tracking-uri", f"sqlite:///{database}"))
    launches = [sweep.start(), twin.start()]
    tokens = [launch.result()["trained_tokens"] for launch in launches]
    assert all(tokens), "one of them trained everything: the test shows less than it says"
    assert_recovered(sweep, undisturbed)
    assert_recovered(twin, undisturbed, database=database)
