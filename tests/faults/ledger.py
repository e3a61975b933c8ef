"""What processes did, one line each in the order it happened: it outlives any process that is killed.

A line is written by one `write` to a file opened for appending, so that lines of several processes never mix.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

FILE = "ledger.jsonl"

Kind = Literal["ask", "acquire", "step", "checkpoint", "done", "kill"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that happened."""

    kind: Kind
    """`ask`: for a run's lease, which somebody may hold; `acquire`: it was taken; `step`: an update was made; `checkpoint` and
    `done`: these were committed.
    """
    seconds: float
    """Of the machine's monotonic clock, which all of its processes share."""
    pid: int
    run: str = ""
    """The run's key; empty for a kill."""
    step: int = 0
    """The step made or committed; for `acquire` the lease's number."""
    victim: str = ""
    """What was killed."""
    state: str = ""
    """What the run was doing, where the kill was aimed at that."""


def write(folder: Path, kind: Kind, **facts: str | int) -> None:
    entry = Entry(kind=kind, seconds=time.monotonic(), pid=os.getpid(), **facts)  # type: ignore[arg-type]
    descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(asdict(entry)) + "\n").encode())
    finally:
        os.close(descriptor)


def read(folder: Path) -> list[Entry]:
    path = folder / FILE
    return [Entry(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
