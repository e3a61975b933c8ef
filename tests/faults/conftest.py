from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.invariants import assert_recovered
from tests.faults.sweep import Sweep, make_sweep, processes_of


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The sweep as it ends when nothing happens to it, held to the same invariants."""
    sweep = make_sweep(tmp_path_factory.mktemp("undisturbed"), step_seconds=0.0, checkpoint_seconds=30.0)
    sweep.finish()
    assert_recovered(sweep, sweep)
    return sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    sweep = make_sweep(tmp_path)
    yield sweep
    for process in processes_of(sweep):
        process.kill()
