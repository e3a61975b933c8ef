"""Run folders with files that can't be read: what a launch puts aside, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama.records import CONFIG, DONE, read_config, read_done
from sweeps.launching.damage import put_damaged_aside
from tests.sweeps.tracking.synthetic import plan_sweep, train_sweep

INDEX, CONFIGS = plan_sweep(widths=(16,), budgets=(1e10,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a finished run."""
    train_sweep(tmp_path, INDEX, CONFIGS)
    return tmp_path / "runs" / next(run.key for run in INDEX.runs if not run.is_trunk)


def test_whole_files_stay_and_nothing_is_said(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    put_damaged_aside({folder: CONFIGS[folder.name]}, say=pytest.fail)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"outcome": "finished"}'])
def test_a_damaged_file_is_named_and_put_aside(folder: Path, damage: bytes) -> None:
    said: list[str] = []
    (folder / DONE).write_bytes(damage)
    put_damaged_aside({folder: CONFIGS[folder.name]}, say=said.append)
    [line] = said
    assert line.startswith(str(folder / DONE))
    assert "\n" not in line
    assert read_done(folder) is None
    assert (folder / "DONE.damaged").read_bytes() == damage


def test_a_damaged_config_is_written_again(folder: Path) -> None:
    whole = read_config(folder)
    (folder / CONFIG).write_text("{}")
    said: list[str] = []
    put_damaged_aside({folder: CONFIGS[folder.name]}, say=said.append)
    assert len(said) == 1
    assert read_config(folder) == whole
