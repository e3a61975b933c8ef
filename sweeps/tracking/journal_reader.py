"""A run's journal as the mirror reads it: forward, once, a slab at a time, with the hash of all that lies behind.

However long a journal is, a reader holds one slab of rows and a few kilobytes. What it has read it does not read again, but
for the last bytes before its place: a resume that cut the journal back and wrote on shows there, since no two lines of one
step have the same time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llama.errors import UserError
from llama.records import JOURNAL, JournalPoint
from sweeps.tracking.names import allowed

Row = tuple[str, float, int, int]
"""(name, value, unix_ms, step) as MLflow takes a metric."""

PIECE_BYTES = 1 << 20
TAIL_BYTES = 4096


class Cursor(NamedTuple):
    """How many bytes of a journal are in MLflow, and a hash of them. As text: `48211 9f86d081884c7d65`."""

    journal_bytes: int
    digest: str

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Of no text: the journal's beginning."""
        length, _, digest = (text or "0").partition(" ")
        return cls(int(length), digest)

    def __str__(self) -> str:
        return f"{self.journal_bytes} {self.digest}"


class Slab(NamedTuple):
    """Rows to send, and where MLflow stands once it has them."""

    rows: list[Row]
    cursor: Cursor
    block: bytes
    """The lines that the rows are of."""
    is_last: bool
    """Whether no more may be shown now."""


class JournalReader:
    """Stands at some line of one journal."""

    def __init__(self, path: Path):
        self._path = path
        self._bytes, self._hash, self._tail = 0, hashlib.sha256(), b""

    def go_to(self, cursor: Cursor) -> bool:
        """Stand where MLflow stands. False where the bytes before that place are not those that MLflow was sent."""
        if cursor.journal_bytes < self._bytes or not self._is_as_read():
            self._go_back()
        for piece in self._pieces(cursor.journal_bytes):
            self._pass(piece)
        return cursor.journal_bytes in (0, self._bytes) and cursor.digest in ("", _short(self._hash))

    def next_slab(self, until_bytes: int, most_rows: int) -> Slab:
        """The rows from here on, about `most_rows` of them, no further than `until_bytes`. `take` goes past it.

        Raises:
            UserError: a line is not a journal point.
        """
        rows: list[Row] = []
        lines: list[bytes] = []
        is_last = True
        for line in self._lines(until_bytes):
            more = point_rows(parse_point(line))
            if rows and len(rows) + len(more) > most_rows:
                is_last = False
                break
            rows += more
            lines.append(line)
        block = b"".join(lines)
        ahead = self._hash.copy()
        ahead.update(block)
        return Slab(rows, Cursor(self._bytes + len(block), _short(ahead)), block, is_last)

    def take(self, slab: Slab) -> None:
        """Go past a slab that MLflow has confirmed."""
        self._pass(slab.block)

    def _lines(self, until_bytes: int) -> Iterator[bytes]:
        """Whole lines from here on; one that is being written is left for the next time."""
        place = self._bytes
        if place >= until_bytes:
            return
        with open(self._path, "rb") as file:
            file.seek(place)
            while place < until_bytes and (line := file.readline()).endswith(b"\n"):
                place += len(line)
                yield line

    def _pieces(self, until_bytes: int) -> Iterator[bytes]:
        place = self._bytes
        if place >= until_bytes or not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(place)
            while piece := file.read(min(PIECE_BYTES, until_bytes - place)):
                place += len(piece)
                yield piece

    def _is_as_read(self) -> bool:
        """Whether the bytes before this place are those that were read."""
        if not self._tail:
            return True
        if not self._path.exists():
            return False
        with open(self._path, "rb") as file:
            file.seek(self._bytes - len(self._tail))
            found = file.read(len(self._tail))
        return found == self._tail

    def _pass(self, piece: bytes) -> None:
        self._hash.update(piece)
        self._bytes += len(piece)
        self._tail = (self._tail + piece[-TAIL_BYTES:])[-TAIL_BYTES:]

    def _go_back(self) -> None:
        self._bytes, self._hash, self._tail = 0, hashlib.sha256(), b""


def end_points(path: Path) -> tuple[JournalPoint | None, list[JournalPoint]]:
    """The journal's first point, and all those of its last token count; (None, []) of an empty one.

    Raises:
        UserError: one of them is not a journal point.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; only the opening may find no file
    except FileNotFoundError:
        return None, []
    with file:
        first_line = file.readline()
        if not first_line.endswith(b"\n"):
            return None, []
        end = file.seek(0, 2)
        reach = TAIL_BYTES
        while True:
            start = max(0, end - reach)
            file.seek(start)
            lines = file.read(end - start).split(b"\n")[0 if start == 0 else 1 : -1]
            last: list[JournalPoint] = []
            for line in reversed(lines):
                point = parse_point(line)
                if last and point.tokens != last[0].tokens:
                    return parse_point(first_line), last[::-1]
                last.append(point)
            if start == 0:
                return parse_point(first_line), last[::-1]
            reach *= 4


def parse_point(line: bytes) -> JournalPoint:
    try:
        return JournalPoint.model_validate_json(line)
    except ValueError as error:
        raise UserError(f"{JOURNAL} holds a line that is not a journal point: {error}") from None


def point_rows(point: JournalPoint) -> list[Row]:
    """One row a finite value. MLflow's step is the tokens seen, so that its charts are loss against tokens."""
    return [
        (allowed(name), value, point.unix_ms, point.tokens)
        for name, value in point.metrics.items()
        if value is not None and math.isfinite(value)
    ]


def short_hash(data: bytes) -> str:
    return _short(hashlib.sha256(data))


def _short(state: hashlib._Hash) -> str:
    return state.hexdigest()[:16]
