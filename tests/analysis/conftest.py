"""Shared by the tests of analysis: published runs where the machine has them, and a synthetic sweep made once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.analysis.synthetic import SyntheticSweep, write_sweep


@pytest.fixture(scope="session")
def published_runs() -> Path:
    """The folder of published runs that `$ISOLOSS_PUBLISHED_RUNS` names (docs/published-runs.md says where they are from)."""
    beside = Path(__file__).parents[2].parent / "shared" / "runs"
    folder = Path(os.environ.get("ISOLOSS_PUBLISHED_RUNS") or beside)
    if not (folder / "sardana2024.csv").is_file():
        pytest.skip("no published runs here: ISOLOSS_PUBLISHED_RUNS names no folder with a sardana2024.csv")
    return folder


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSweep:
    """A finished sweep at the quickstart's scale, with one diverged run. Read-only."""
    return write_sweep(tmp_path_factory.mktemp("storage"), diverged=1)
