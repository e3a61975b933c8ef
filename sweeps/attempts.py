"""What was tried: a line in a run's folder for each attempt at one of its segments, as the launcher saw it begin and end.

`attempts.jsonl` is for people and pictures: nothing that trains or resumes reads it, and a launcher that was killed leaves out
the attempts that were under way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from cluster.states import Event, State
from cluster.task import Failed, Succeeded
from llama.records import Record, now_ms
from sweeps.designs.segments import Segment
from sweeps.storage import Storage

ATTEMPTS = "attempts.jsonl"


class AttemptRecord(Record):
    """One attempt at a segment."""

    attempt: int
    until_step: int
    nodes: list[str]
    """A node for each of its processes."""
    cpus: float
    """Of each process, as its GPUs are."""
    gpus: float
    began_unix_ms: int
    """When it was handed to a worker: the start of a process comes after."""
    ended_unix_ms: int
    outcome: str
    """`done`, a `cluster.task.FailureKind`, or `interrupted` with its launcher."""
    trained_tokens: int | None
    """By this attempt; None unless it was done."""
    training_seconds: float | None
    """In training steps; None unless it was done."""


class AttemptLog:
    """Fed with the supervisor's events. Use as a context manager: what still runs at its end was interrupted."""

    def __init__(self, storage: Storage, segments: Mapping[str, Segment]):
        self._storage, self._segments = storage, segments
        self._running: dict[str, tuple[Event, int]] = {}

    def on_event(self, event: Event) -> None:
        """Take note of one change of a task's state."""
        begun = self._running.pop(event.task.id, None)
        if event.state is State.RUNNING:
            self._running[event.task.id] = event, now_ms()
        elif begun is not None:
            value = event.outcome.value if isinstance(event.outcome, Succeeded) else {}
            outcome = event.outcome.kind.value if isinstance(event.outcome, Failed) else event.state.value
            self._write(*begun, outcome, value)

    def __enter__(self) -> AttemptLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for begun in self._running.values():
            self._write(*begun, "interrupted", {})

    def _write(self, begun: Event, began_unix_ms: int, outcome: str, value: Mapping[str, float]) -> None:
        segment, resources = self._segments[begun.task.id], begun.task.resources
        tokens, seconds = value.get("trained_tokens"), value.get("training_seconds")
        record = AttemptRecord(
            attempt=begun.attempt,
            until_step=segment.end_step,
            nodes=list(begun.node_ids),
            cpus=resources.cpus,
            gpus=resources.gpus,
            began_unix_ms=began_unix_ms,
            ended_unix_ms=now_ms(),
            outcome=outcome,
            trained_tokens=None if tokens is None else int(tokens),
            training_seconds=seconds,
        )
        folder = self._storage.run(segment.run_key)
        # A full disk must not end a launch for the sake of a picture; a run that never began has no folder.
        with contextlib.suppress(OSError), open(folder / ATTEMPTS, "a+b") as file:
            line = record.model_dump_json() + "\n"
            file.write((line if _ends_a_line(file) else f"\n{line}").encode())


def _ends_a_line(file: BinaryIO) -> bool:
    """Whether a line can be appended: a launcher that died, or a full disk, may have cut the last one short."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_attempts(folder: Path) -> list[AttemptRecord]:
    """A run's attempts in the order of their ends. A line that was cut short is left out."""
    try:
        lines = (folder / ATTEMPTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(AttemptRecord.model_validate_json(line))
    return found
