"""Gates: a process that comes to an armed one is held there until it is opened, or the process is killed.

A gate is a file, `armed/<state>`. Whoever comes first renames it to `held/<state>.<pid>`, so that one process alone is held.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: The states of a run in which it can be held, in the order it comes to them.
STATES = (
    "waiting",
    "before its first checkpoint",
    "training",
    "writing a checkpoint",
    "marking a checkpoint",
    "evaluating",
    "writing DONE",
    "between segments",
    "measuring inference",
)


@dataclass(frozen=True)
class Held:
    """A process that is held."""

    path: Path
    pid: int

    def release(self) -> None:
        self.path.unlink(missing_ok=True)


def arm(folder: Path, state: str) -> None:
    for name in ("armed", "held"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "armed" / state).touch()


def wait_until_held(folder: Path, state: str, *, alive: Callable[[], bool], seconds: float = 300.0) -> Held:
    """The process that took the gate. `alive` says whether it can still come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in (folder / "held").glob(f"{state}.*"):
            return Held(path, int(path.suffix[1:]))
        assert alive(), f"the launch ended before a run was {state}"
        time.sleep(0.01)
    raise AssertionError(f"no run was {state} within {seconds:g} seconds")


def hold(folder: Path, state: str) -> None:
    """Called by a process that comes to the gate."""
    held = folder / "held" / f"{state}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):  # not armed, or somebody else was first
        (folder / "armed" / state).rename(held)
        while held.exists():
            time.sleep(0.01)
