"""What must be decided over all documents at once, from their tables alone: which are copies, and who is in a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from llama.data.building.texts import Flags, TextPart, read_table, read_text

#: So many documents are compared at once: those whose hashes fall in one bucket of as many as it takes.
BUCKET_DOCUMENTS = 1 << 22


def first_copies(folder: Path, parts: Sequence[TextPart], *, bucket_documents: int = BUCKET_DOCUMENTS) -> list[Flags]:
    """For each part `[documents]`: is the document the first of its text, in the order of the parts?

    Memory holds a byte a document, and the hashes of a bucket.
    """
    kept = [np.ones(part.documents, dtype=np.bool_) for part in parts]
    buckets = -(-sum(part.documents for part in parts) // bucket_documents)
    for bucket in range(buckets):
        places: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        for part in parts:
            table = read_table(folder, part)
            mine = np.flatnonzero(table["hash"] % np.uint64(buckets) == bucket)
            places.append(mine)
            rows.append(table[mine])
        row = np.concatenate(rows)
        order = np.lexsort((row["rank"], row["hash"]))  # stable: equal texts keep their order
        before, after = row[order[:-1]], row[order[1:]]
        is_copy = np.zeros(len(row), dtype=np.bool_)
        is_copy[order[1:]] = (before["hash"] == after["hash"]) & (before["rank"] == after["rank"])
        ends = np.cumsum([len(mine) for mine in places])[:-1]
        for flags, mine, copies in zip(kept, places, np.split(is_copy, ends), strict=True):
            flags[mine[copies]] = False
    return kept


def sample_texts(
    folder: Path, parts: Sequence[TextPart], kept: Sequence[Flags], limit_bytes: int, *, wanted: Callable[[str], bool]
) -> list[str]:
    """Whole documents by rank, the last one cut, that hold at most `limit_bytes` together.

    Documents that are not `wanted` are passed over. Memory holds the sample and one part's table.
    """
    reach_bytes = limit_bytes
    while True:
        texts: list[str] = []
        left_bytes = limit_bytes
        lowest = _lowest_ranks(folder, parts, kept, reach_bytes)
        for number, start, length in lowest:
            if left_bytes <= 0:
                return texts
            data = read_text(folder, parts[number], start, length)
            if wanted(data.decode()):
                cut = data[:left_bytes]
                texts.append(cut.decode("utf-8", errors="ignore"))  # the cut may fall inside a character
                left_bytes -= len(cut)
        if left_bytes <= 0 or sum(length for _, _, length in lowest) < reach_bytes:
            return texts
        reach_bytes *= 2


def _lowest_ranks(
    folder: Path, parts: Sequence[TextPart], kept: Sequence[Flags], reach_bytes: int
) -> list[tuple[int, int, int]]:
    """Part, start and length of kept documents by rank, as few as hold `reach_bytes`, or all of them."""
    columns = [np.empty(0, dtype=np.uint64)] * 4
    for number, (part, flags) in enumerate(zip(parts, kept, strict=True)):
        table = read_table(folder, part)
        starts = np.cumsum(table["bytes"]) - table["bytes"]
        here = np.flatnonzero(flags)
        more = (table["rank"][here], np.full(len(here), number, dtype=np.uint64), starts[here], table["bytes"][here])
        columns = [np.concatenate(pair) for pair in zip(columns, more, strict=True)]
        order = np.argsort(columns[0], kind="stable")
        held_bytes = np.cumsum(columns[3][order])
        order = order[: int(np.searchsorted(held_bytes, reach_bytes)) + 1]
        columns = [column[order] for column in columns]
    _, numbers, starts, lengths = (column.tolist() for column in columns)
    return list(zip(numbers, starts, lengths, strict=True))
