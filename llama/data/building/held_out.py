"""The held-out text's grams, against which training text is screened: hashed where the text is read, merged, kept on disk."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama.data.building.texts import TextPart, read_texts, replace_file
from llama.data.near_duplicates import HeldOutGrams, gram_hashes, sorted_unique

_MERGED = "held_out.grams"


@dataclass(frozen=True, kw_only=True)
class StoredGrams:
    """The grams on disk, which the workers of one machine map into memory together."""

    path: Path
    sha256: str
    limit: int

    @classmethod
    def of(cls, grams: HeldOutGrams, folder: Path) -> StoredGrams:
        path = folder / _MERGED
        array = io.BytesIO()
        np.save(array, grams.hashes)
        return cls(path=path, sha256=replace_file(path, array.getvalue()), limit=grams.limit)


@functools.lru_cache(maxsize=1)
def load_grams(stored: StoredGrams) -> HeldOutGrams:
    """Once a process."""
    return HeldOutGrams(np.load(stored.path, mmap_mode="r"), stored.limit)


def hash_part(folder: Path, part: TextPart) -> dict[str, str]:
    """Write the hashes of a held-out part's grams, each once, ascending; returns the file's SHA-256 by its name."""
    everything = np.ones(part.documents, dtype=np.bool_)  # a copy's grams are those of its first
    hashes = [gram_hashes(text) for text in read_texts(folder, part, everything)]
    path = _hashes_path(folder, part)
    return {path.name: replace_file(path, sorted_unique(np.concatenate(hashes)).tobytes())}


def merge_parts(folder: Path, parts: Iterable[TextPart]) -> HeldOutGrams:
    """The grams of all held-out parts."""
    return HeldOutGrams.of(np.fromfile(_hashes_path(folder, part), dtype=np.uint64) for part in parts)


def _hashes_path(folder: Path, part: TextPart) -> Path:
    return folder / f"{part.name}.grams"
