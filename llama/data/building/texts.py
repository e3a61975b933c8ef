"""Documents on disk between reading and tokenizing, in parts of a few megabytes: the unit that workers share out.

    <part>.text        the documents' UTF-8 bytes, one after the other
    <part>.documents   a row for each: its bytes, and two hashes of its text

A corpus is read once and held in memory never; what must be known of all documents at once is in the small tables.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama.records import Record

#: A part ends with the document that fills it. Memory follows this, and the longest document.
PART_BYTES = 1 << 23

DOCUMENTS = np.dtype([("bytes", "<u8"), ("hash", "<u8"), ("rank", "<u8")])
Flags = NDArray[np.bool_]


class PackedFlags(bytes):
    """A flag for each document of a part, a bit each."""

    @classmethod
    def pack(cls, flags: Flags) -> PackedFlags:
        return cls(np.packbits(flags).tobytes())

    def of(self, part: TextPart) -> Flags:
        """`[documents]`, a copy."""
        return np.unpackbits(np.frombuffer(self, dtype=np.uint8), count=part.documents).astype(np.bool_)


class TextPart(Record):
    """What a part holds."""

    name: str
    documents: int
    bytes: int
    """Of text."""
    text_sha256: str
    table_sha256: str

    @property
    def files(self) -> dict[str, str]:
        return {f"{self.name}.text": self.text_sha256, f"{self.name}.documents": self.table_sha256}


class TextWriter:
    """Writes documents into parts `<stem>-<number>`. `close` writes the last one."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder = folder
        self._stem = stem
        self._texts: list[bytes] = []
        self._rows: list[tuple[int, int, int]] = []
        self._held_bytes = 0
        self.parts: list[TextPart] = []

    def append(self, text: bytes, *, text_hash: int, rank: int) -> None:
        """Both numbers are hashes of the text below 2^64: together they tell texts apart, and `rank` orders a sample."""
        self._texts.append(text)
        self._rows.append((len(text), text_hash, rank))
        self._held_bytes += len(text)
        if self._held_bytes >= PART_BYTES:
            self._write()

    def close(self) -> list[TextPart]:
        if self._texts:
            self._write()
        return self.parts

    def _write(self) -> None:
        name = f"{self._stem}-{len(self.parts):06d}"
        self.parts.append(
            TextPart(
                name=name,
                documents=len(self._rows),
                bytes=self._held_bytes,
                text_sha256=replace_file(self._folder / f"{name}.text", *self._texts),
                table_sha256=replace_file(
                    self._folder / f"{name}.documents", np.array(self._rows, dtype=DOCUMENTS).tobytes()
                ),
            )
        )
        self._texts, self._rows, self._held_bytes = [], [], 0


def replace_file(path: Path, *chunks: bytes) -> str:
    """Write the file whole or not at all, whoever else writes it; returns the SHA-256 of what it holds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    sha256 = hashlib.sha256()
    with open(temporary, "wb") as file:
        for chunk in chunks:
            sha256.update(chunk)
            file.write(chunk)
    temporary.replace(path)
    return sha256.hexdigest()


def read_table(folder: Path, part: TextPart) -> NDArray[np.void]:
    """A row a document, in order."""
    return np.fromfile(folder / f"{part.name}.documents", dtype=DOCUMENTS)


def read_texts(folder: Path, part: TextPart, kept: Flags) -> Iterator[str]:
    """The texts of the documents that are kept, in order."""
    with open(folder / f"{part.name}.text", "rb") as file:
        for length, keep in zip(read_table(folder, part)["bytes"].tolist(), kept.tolist(), strict=True):
            if keep:
                yield file.read(length).decode()
            else:
                file.seek(length, os.SEEK_CUR)


def read_text(folder: Path, part: TextPart, start: int, length: int) -> bytes:
    with open(folder / f"{part.name}.text", "rb") as file:
        file.seek(start)
        return file.read(length)
