"""The journal of one run, written: points gather in memory and reach the file at each checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
        size = self._path.stat().st_size
        if size < keep_bytes:
            raise UserError(
                f"{self._path} has {size:,} bytes, but its checkpoint was made after {keep_bytes:,}: put the file back, "
                f"or remove {run_folder} to train the run anew"
            )
        os.truncate(self._path, keep_bytes)

    def add(self, point: JournalPoint) -> None:
        self._pending.append(journal_line(point))

    def flush(self) -> int:
        """Write what is pending, to stay; returns the journal's length in bytes. A failure leaves the file as it was."""
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

    def __init__(self, run_folder: Path, *, until_step: int):
        self._bytes = 0
        for line in (run_folder / JOURNAL).read_bytes().splitlines(keepends=True):
            if json.loads(line)["step"] > until_step:
                break
            self._bytes += len(line)

    def add(self, point: JournalPoint) -> None:
        """The journal has this window of steps already, with the same numbers."""

    def flush(self) -> int:
        """Length in bytes up to the segment's end."""
        return self._bytes

    def cut(self, to_bytes: int) -> None:
        """Nothing was flushed."""
