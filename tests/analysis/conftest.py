"""Shared by the tests of analysis: published runs where the machine has them, and a synthetic sweep made once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.analysis.synthetic import SyntheticSweep, write_sweep


@pytest.fixture(scope="session")
def published_runs() -> Path:
    """The folder of published runs: `$ISOLOSS_SHARED/runs`, or `../shared/runs` beside the checkout."""
    shared = os.environ.get("ISOLOSS_SHARED") or Path(__file__).parents[2].parent / "shared"
    folder = Path(shared) / "runs"
    if not (folder / "sardana2024.csv").is_file():
        pytest.skip("no published runs here: set ISOLOSS_SHARED to the folder that holds runs/sardana2024.csv")
    return folder


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSweep:
    """A finished sweep at the quickstart's scale, with one diverged run. Read-only."""
    return write_sweep(tmp_path_factory.mktemp("storage"), diverged=1)
