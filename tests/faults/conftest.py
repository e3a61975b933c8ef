from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.experiments import undisturbed_sweep
from tests.faults.sweep import Sweep, make_sweep, processes_of


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return undisturbed_sweep(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    sweep = make_sweep(tmp_path)
    yield sweep
    for process in processes_of(sweep):
        process.kill()
