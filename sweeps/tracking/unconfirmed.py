"""What was sent to MLflow without an answer: it may still be carried out, much later, on top of what was sent since.

Harmless as long as the journal begins as it did then, since MLflow drops rows that it has. Where a resume has rewritten the
journal before that place, the late rows would be points from no journal: such a run has to be mirrored anew, and what arrives
for its old MLflow run is refused, since that lies in the trash.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from llama.errors import UserError
from llama.records import JOURNAL, Record, read_record, write_record
from sweeps.tracking.journal_reader import Cursor, short_hash

FILE = "mirror-unconfirmed.json"


class _Sent(Record):
    cursors: dict[str, str]
    """By run key."""


class Unconfirmed:
    """Of one sweep, kept in its folder: another mirror may have to go on."""

    def __init__(self, storage: Path, sweep: str) -> None:
        self._runs_folder, self._path = storage / "runs", storage / "sweeps" / sweep / FILE
        try:
            sent = read_record(self._path, _Sent)
        except UserError:  # damaged: what can't be known is as if nothing had been sent
            sent = None
        self._cursors = dict(sent.cursors) if sent is not None else {}

    def note(self, key: str, cursor: Cursor) -> None:
        """Journal rows up to this place were sent, and no answer came."""
        if cursor.journal_bytes >= Cursor.parse(self._cursors.get(key)).journal_bytes:
            self._cursors[key] = str(cursor)
            self._write()

    def is_of_another_journal(self, key: str) -> bool:
        """Whether rows that are no longer in a run's journal may still arrive."""
        if key not in self._cursors:
            return False
        cursor, journal = Cursor.parse(self._cursors[key]), self._runs_folder / key / JOURNAL
        if not journal.exists():
            return True
        with open(journal, "rb") as file:
            return short_hash(file.read(cursor.journal_bytes)) != cursor.digest

    def forget(self, key: str) -> None:
        if self._cursors.pop(key, None) is not None:
            self._write()

    def _write(self) -> None:
        with suppress(OSError):  # a full disk: this process still knows
            write_record(self._path, _Sent(cursors=self._cursors))
