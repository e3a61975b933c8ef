"""The journal of one run, written: points gather in memory and reach the file at each checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

from llama.atomic_files import sync_folder
from llama.errors import UserError
from llama.records import JOURNAL, JournalPoint, journal_line


class Journal:
    """Appends to `metrics.jsonl`, from the length that the checkpoint resumed from vouches for."""

    def __init__(self, run_folder: Path, *, keep_bytes: int):
        """Cut the file to `keep_bytes`.

        Raises:
            UserError: it is shorter: points that the checkpoint vouches for are lost.
        """
        self._path = run_folder / JOURNAL
        self._pending: list[str] = []
        self._path.touch()
        sync_folder(run_folder)
        size = self._path.stat().st_size
        if size < keep_bytes:
            raise UserError(
                f"{self._path} has {size:,} bytes, but its checkpoint was made after {keep_bytes:,}: put the file back, "
                f"or remove {run_folder} to train the run anew"
            )
        os.truncate(self._path, keep_bytes)

    def add(self, point: JournalPoint) -> None:
        self._pending.append(journal_line(point))

    def flush(self, step: int) -> int:
        """Write what is pending, all up to `step`, to stay; returns the journal's length in bytes. A failure leaves the file as
        it was.
        """
        before = self._path.stat().st_size
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.writelines(self._pending)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self.cut(before)
            raise
        self._pending.clear()
        return self._path.stat().st_size

    def cut(self, to_bytes: int) -> None:
        """Take back what was flushed beyond a length: the checkpoint that should vouch for it was not written."""
        os.truncate(self._path, to_bytes)


class WrittenJournal:
    """A journal that already reaches beyond this segment: its points are there, and stay as they are."""

    def __init__(self, run_folder: Path):
        self._lines = (run_folder / JOURNAL).read_bytes().splitlines(keepends=True)

    def add(self, point: JournalPoint) -> None:
        """The journal has this window of steps already, with the same numbers."""

    def flush(self, step: int) -> int:
        """Length in bytes up to `step`: what a checkpoint there vouches for."""
        return sum(len(line) for line in self._lines if json.loads(line)["step"] <= step)

    def cut(self, to_bytes: int) -> None:
        """Nothing was flushed."""
