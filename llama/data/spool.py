"""Documents on disk between reading and tokenizing: a corpus is read once and held in memory never."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np


class Spool:
    """Texts of one domain, appended in order, then read in order or sampled. Its file has no name and ends with it."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._lengths = array("Q")
        self._ranks = array("Q")
        self.bytes = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def documents(self) -> int:
        return len(self._lengths)

    def append(self, text: bytes, *, rank: int) -> None:
        """`rank` is a hash of the text below 2^64: its place in a sample."""
        self._file.write(text)
        self._lengths.append(len(text))
        self._ranks.append(rank)
        self.bytes += len(text)

    def sample(self, limit_bytes: int) -> list[str]:
        """Whole documents by rank, the last one cut, that hold at most `limit_bytes` together."""
        lengths = np.frombuffer(self._lengths, dtype=np.uint64)
        starts = np.cumsum(lengths) - lengths
        texts: list[str] = []
        left = limit_bytes
        for index in np.argsort(np.frombuffer(self._ranks, dtype=np.uint64), kind="stable"):
            if left <= 0:
                break
            self._file.seek(int(starts[index]))
            data = self._file.read(min(left, int(lengths[index])))
            texts.append(data.decode("utf-8", errors="ignore"))  # the cut may fall inside a character
            left -= len(data)
        return texts

    def batches(self, batch_bytes: int) -> Iterator[list[str]]:
        """All documents in order, in lists of about `batch_bytes`."""
        self._file.seek(0)
        batch: list[str] = []
        held_bytes = 0
        for length in self._lengths:
            batch.append(self._file.read(length).decode())
            held_bytes += length
            if held_bytes >= batch_bytes:
                yield batch
                batch, held_bytes = [], 0
        if batch:
            yield batch
