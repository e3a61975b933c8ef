"""A disk that is full in the middle of a sweep: one clear message, and after room was made the same command goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.gates import arm, wait_until_held
from tests.faults.injection import FULL
from tests.faults.invariants import assert_recovered
from tests.faults.sweep import Sweep, make_sweep, processes_of


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_sync_finds_room(sweep: Sweep, undisturbed: Sweep) -> None:
    """In every process of the launch, from the moment on when a run trains."""
    arm(sweep.faults, "training")
    launch = sweep.start()
    held = wait_until_held(sweep.faults, "training", alive=lambda: launch.is_alive)
    (sweep.faults / FULL).touch()
    held.release()
    assert_says_what_to_do(launch.refusal())
    assert_says_what_to_do(sweep.start().refusal())
    (sweep.faults / FULL).unlink()
    sweep.finish()
    assert_recovered(sweep, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_file_system_without_room(tmp_path: Path, small_disk: Path, undisturbed: Sweep) -> None:
    sweep = make_sweep(tmp_path)
    sweep.storage.symlink_to(small_disk)
    try:
        arm(sweep.faults, "training")
        launch = sweep.start()
        held = wait_until_held(sweep.faults, "training", alive=lambda: launch.is_alive)
        ballast = small_disk / "ballast"
        with suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                continue
        assert shutil.disk_usage(small_disk).free == 0
        held.release()
        assert_says_what_to_do(launch.refusal())
        ballast.unlink()
        sweep.finish()
        assert_recovered(sweep, undisturbed)
    finally:
        for process in processes_of(sweep):
            process.kill()


def assert_says_what_to_do(said: str) -> None:
    assert "No space left on device" in said
    assert "make room" in said
