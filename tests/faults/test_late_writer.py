"""A writer that falls silent, is taken for dead, and comes back when another has done its work."""

from __future__ import annotations

import psutil
import pytest

from tests.faults import ledger
from tests.faults.gates import arm, wait_until_held
from tests.faults.injection import HOST, STALE_SECONDS
from tests.faults.invariants import assert_recovered
from tests.faults.sweep import SMALL, Sweep, make_sweep


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_writer_that_comes_back_late_is_fenced_and_has_written_nothing_that_counts(
    sweep: Sweep, undisturbed: Sweep
) -> None:
    """Two launchers as on two machines, since on one the owner of a lease is seen to live however silent it is."""
    database = sweep.folder / "twin.db"
    sweep.variables.update({HOST: "one", STALE_SECONDS: "3"})
    twin = make_sweep(
        sweep.folder,
        SMALL | {"name": "twin"},
        options=("--tracking-uri", f"sqlite:///{database}"),
        variables={HOST: "another", STALE_SECONDS: "3"},
    )
    arm(sweep.faults, "training")
    launch = sweep.start()
    held = wait_until_held(sweep.faults, "training", alive=lambda: launch.is_alive)
    late = psutil.Process(held.pid)
    late.suspend()
    held.release()
    steps = [entry.step for entry in ledger.read(sweep.faults) if entry.kind == "step" and entry.pid == held.pid]
    twin.finish()
    late.resume()
    assert launch.result()["finished"] == 6
    entries = [entry for entry in ledger.read(sweep.faults) if entry.pid == held.pid]
    assert [entry.step for entry in entries if entry.kind == "step"][len(steps) :], "it never came back"
    assert_recovered(sweep, undisturbed)
    assert_recovered(twin, undisturbed, database=database)
