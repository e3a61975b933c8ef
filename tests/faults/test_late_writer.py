"""A writer that falls silent, is taken for dead, and comes back when another has taken its place."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest

from tests.cluster.processes import wait_for
from tests.faults import ledger
from tests.faults.gates import arm, wait_until_held
from tests.faults.injection import HOST, STALE_SECONDS
from tests.faults.invariants import assert_recovered
from tests.faults.sweep import SMALL, Sweep, make_sweep

#: Ray kills a worker that has been silent for 20 seconds: it has to come back before that.
STALE = "5"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_writer_that_comes_back_late_is_fenced_and_has_written_nothing_that_counts(
    sweep: Sweep, undisturbed: Sweep
) -> None:
    """Two launchers as on two machines, since on one the owner of a lease is seen to live however silent it is."""
    database = sweep.folder / "twin.db"
    sweep = replace(sweep, variables={HOST: "one", STALE_SECONDS: STALE})
    twin = make_sweep(
        sweep.folder,
        SMALL | {"name": "twin"},
        options=("--tracking-uri", f"sqlite:///{database}"),
        variables={HOST: "another", STALE_SECONDS: STALE},
    )
    arm(sweep.faults, "training")
    launch = sweep.start()
    held = wait_until_held(sweep.faults, "training", alive=lambda: launch.is_alive)
    late = psutil.Process(held.pid)
    run = next(entry.run for entry in ledger.read(sweep.faults) if entry.pid == held.pid)
    other = twin.start()
    wait_for(lambda: _others_asking(sweep, run, held.pid), seconds=300)

    late.suspend()
    held.release()
    wait_for(lambda: _holder(sweep, run) != held.pid, seconds=60)
    late.resume()
    assert launch.result()["finished"] == other.result()["finished"] == 6
    assert "is tried again: fenced" in launch.said, launch.said
    assert_recovered(sweep, undisturbed)
    assert_recovered(twin, undisturbed, database=database)


def _others_asking(sweep: Sweep, run: str, pid: int) -> bool:
    return any((entry.kind, entry.run) == ("ask", run) and entry.pid != pid for entry in ledger.read(sweep.faults))


def _holder(sweep: Sweep, run: str) -> int:
    return next(
        entry.pid for entry in reversed(ledger.read(sweep.faults)) if (entry.kind, entry.run) == ("acquire", run)
    )
