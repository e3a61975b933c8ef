"""What people asked of a sweep while it runs, or before it runs again: pause, resume, cancel, for all of it or for single runs.

    <storage>/sweeps/<name>/control/sweep.json     asked of the whole sweep
    <storage>/sweeps/<name>/control/<key>.json     asked of one run

One small file a subject, written atomically, so that two people asking at once lose nothing; resuming removes it. The
launcher looks every few seconds, and a later launch finds the same files: what is cancelled stays so until it is resumed.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama.records import Record, now_ms, read_record, write_record
from sweeps.designs.segments import Segment

CONTROL = "control"
_WHOLE_SWEEP = "sweep"

Wish = Literal["paused", "cancelled"]


class Request(Record):
    """One file: what is asked of its subject, and since when."""

    wish: Wish
    unix_ms: int
    by: str = ""
    """Who asked, as `ann on host`."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """What holds now. A run is paused if it or the whole sweep is, and cancelled likewise."""

    paused: bool = False
    cancelled: bool = False
    paused_runs: frozenset[str] = frozenset()
    """By key, asked for by name; a sweep that is paused as a whole is not spelled out here."""
    cancelled_runs: frozenset[str] = frozenset()

    def pauses(self, run_key: str) -> bool:
        return self.paused or run_key in self.paused_runs

    def cancels(self, run_key: str) -> bool:
        return self.cancelled or run_key in self.cancelled_runs


def read_control(folder: Path) -> Control:
    """What was asked of the sweep in `folder`.

    Raises:
        UserError: a file there holds no request.
    """
    by_wish: dict[Wish, set[str]] = {"paused": set(), "cancelled": set()}
    for subject, request in _requests(folder).items():
        by_wish[request.wish].add(subject)
    return Control(
        paused=_WHOLE_SWEEP in by_wish["paused"],
        cancelled=_WHOLE_SWEEP in by_wish["cancelled"],
        paused_runs=frozenset(by_wish["paused"] - {_WHOLE_SWEEP}),
        cancelled_runs=frozenset(by_wish["cancelled"] - {_WHOLE_SWEEP}),
    )


def asked_of(folder: Path) -> tuple[Request | None, dict[str, Request]]:
    """What was asked of the whole sweep, and of single runs by key, with who asked and when.

    Raises:
        UserError: a file there holds no request.
    """
    requests = _requests(folder)
    return requests.pop(_WHOLE_SWEEP, None), requests


def _requests(folder: Path) -> dict[str, Request]:
    found = {path.stem: read_record(path, Request) for path in (folder / CONTROL).glob("[!.]*.json")}
    return {subject: request for subject, request in found.items() if request is not None}  # or resumed this moment


def ask(folder: Path, wish: Wish, run_keys: Iterable[str] | None = None) -> None:
    """Ask it of these runs, or of the whole sweep in `folder`. What was asked of a subject before is replaced."""
    (folder / CONTROL).mkdir(parents=True, exist_ok=True)
    request = Request(wish=wish, unix_ms=now_ms(), by=f"{_user()} on {socket.gethostname()}")
    for path in _files(folder, run_keys):
        write_record(path, request)


def resume(folder: Path, run_keys: Iterable[str] | None = None) -> None:
    """Take back what was asked of these runs, or of the whole sweep: then what was asked of single runs still holds."""
    for path in _files(folder, run_keys):
        path.unlink(missing_ok=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"user {os.getuid()}"


def _files(folder: Path, run_keys: Iterable[str] | None) -> list[Path]:
    return [folder / CONTROL / f"{subject}.json" for subject in ([_WHOLE_SWEEP] if run_keys is None else run_keys)]


def cancelled_segments(control: Control, segments: Sequence[Segment]) -> frozenset[str]:
    """Ids of the segments that are not to run: those of cancelled runs, what hangs on them, and stretches of a trunk that no
    branch needs any more. `segments` are the missing ones, each after all that it needs.
    """
    cancelled = {segment.id for segment in segments if control.cancels(segment.run_key)}
    needed_by: defaultdict[str, set[str]] = defaultdict(set)
    for segment in segments:
        if not cancelled.isdisjoint(segment.needs):
            cancelled.add(segment.id)
        for need in segment.needs:
            needed_by[need].add(segment.id)
    for segment in reversed(segments):
        if not segment.ends_run and needed_by[segment.id] and needed_by[segment.id] <= cancelled:
            cancelled.add(segment.id)
    return frozenset(cancelled)
