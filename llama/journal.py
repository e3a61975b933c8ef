"""The journal of one run, written: points gather in memory and reach the file at each checkpoint, which notes its length and
SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import NamedTuple

from llama.atomic_files import sync_folder
from llama.errors import UserError
from llama.records import JOURNAL, JournalPoint, complete_steps, journal_line, read_checkpoint_mark


class Written(NamedTuple):
    """How much of the journal is on the disk."""

    bytes: int
    sha256: str


def newest_vouched_step(run_folder: Path, *, at_most_step: int) -> int:
    """The newest checkpoint, at or before a step, whose journal is as it was then: points that were lost since are made again
    from there. `at_most_step` itself where there is no checkpoint yet.

    Raises:
        UserError: points were lost that only a run from the start would make again, which a person should decide on.
    """
    path = run_folder / JOURNAL
    data = path.read_bytes() if path.exists() else b""
    passed_over = None
    for step in reversed([step for step in complete_steps(run_folder) if step <= at_most_step]):
        mark = read_checkpoint_mark(run_folder, step)
        if mark is None:
            continue
        kept = data[: mark.journal_bytes]
        if len(kept) == mark.journal_bytes and mark.journal_sha256 in (None, hashlib.sha256(kept).hexdigest()):
            if passed_over is not None:
                warnings.warn(f"{path} is damaged: going on from step {step:,}, before the damage", stacklevel=2)
            return step
        passed_over = mark
    if passed_over is None:
        return at_most_step
    raise UserError(
        f"{path} is damaged: its first {passed_over.journal_bytes:,} bytes are not those that the checkpoint at step "
        f"{passed_over.step:,} was made after: put the file back, or remove {run_folder} to train the run anew"
    )


class Journal:
    """Appends to `metrics.jsonl`, from the length that the checkpoint resumed from vouches for."""

    def __init__(self, run_folder: Path, *, keep_bytes: int):
        """Cut the file to `keep_bytes`."""
        self._path = run_folder / JOURNAL
        self._pending: list[str] = []
        self._path.touch()
        sync_folder(run_folder)
        os.truncate(self._path, keep_bytes)
        self._hash = hashlib.sha256(self._path.read_bytes())

    def add(self, point: JournalPoint) -> None:
        self._pending.append(journal_line(point))

    def flush(self, step: int) -> Written:
        """Write what is pending, all up to `step`, to stay. A failure leaves the file as it was."""
        before = self._path.stat().st_size
        text = "".join(self._pending).encode()
        try:
            with open(self._path, "ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self.cut(before)
            raise
        self._pending.clear()
        self._hash.update(text)
        return Written(self._path.stat().st_size, self._hash.hexdigest())

    def cut(self, to_bytes: int) -> None:
        """Take back what was flushed beyond a length: the checkpoint that should vouch for it was not written."""
        os.truncate(self._path, to_bytes)


class WrittenJournal:
    """A journal that already reaches beyond this segment: its points are there, and stay as they are."""

    def __init__(self, run_folder: Path):
        self._lines = (run_folder / JOURNAL).read_bytes().splitlines(keepends=True)

    def add(self, point: JournalPoint) -> None:
        """The journal has this window of steps already, with the same numbers. A validation that it lacks is not put between
        its lines.
        """

    def flush(self, step: int) -> Written:
        """What there is up to `step`: what a checkpoint there vouches for."""
        written = b"".join(line for line in self._lines if json.loads(line)["step"] <= step)
        return Written(len(written), hashlib.sha256(written).hexdigest())

    def cut(self, to_bytes: int) -> None:
        """Nothing was flushed."""
