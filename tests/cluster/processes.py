"""Watching processes in tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", Path, Callable[[], object])


def is_alive(pid: int) -> bool:
    """Whether a process runs under that id; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: T, seconds: float = 30.0) -> T:
    """Wait until a file is there or a condition is true; fail after so many seconds."""
    until = time.monotonic() + seconds
    while not (what.exists() if isinstance(what, Path) else what()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} seconds: {what}")
        time.sleep(0.02)
    return what
