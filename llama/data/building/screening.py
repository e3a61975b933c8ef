"""The second stage: a text part is rid of near-duplicates of held-out text, and what it shares with that is noted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama.data.building.held_out import StoredGrams, load_grams
from llama.data.building.marks import Finished, once
from llama.data.building.texts import Flags, PackedFlags, TextPart, read_texts, replace_file
from llama.data.near_duplicates import below, gram_hashes, sorted_unique


@dataclass(frozen=True, kw_only=True)
class ScreeningWork:
    """What one worker screens in one go."""

    folder: Path
    part: TextPart
    kept: PackedFlags
    """All but exact copies."""
    held_out: StoredGrams
    is_held_out: bool
    """It is held-out text itself: nothing is left out, and its grams are counted."""


class ScreenedPart(Finished):
    """What a part came to."""

    kept_hex: str
    """The documents that are still kept, as `PackedFlags`."""
    near_duplicates: int
    """Documents left out because half of their 13-grams are held out."""

    @property
    def kept(self) -> PackedFlags:
        return PackedFlags(bytes.fromhex(self.kept_hex))


def screen_part(work: ScreeningWork) -> ScreenedPart:
    """Screen a part, or take up what an earlier process has screened."""
    inputs = {
        "text": work.part.text_sha256,
        "kept": work.kept.hex(),
        "held_out": [work.held_out.sha256, work.held_out.limit],
        "is_held_out": work.is_held_out,
    }
    mark = work.folder / f"{work.part.name}.screen.json"
    return once(
        mark, inputs=inputs, kind=ScreenedPart, work=lambda: _tally(work) if work.is_held_out else _screen(work)
    )


def _screen(work: ScreeningWork) -> ScreenedPart:
    """Leave near-duplicates out; note which held-out grams the other documents hold."""
    held_out = load_grams(work.held_out)
    kept = work.kept.of(work.part)
    found = [np.empty(0, dtype=np.int64)]
    near_duplicates: list[int] = []
    documents = zip(np.flatnonzero(kept).tolist(), read_texts(work.folder, work.part, kept), strict=True)
    for place, text in documents:
        match = held_out.match(text)
        if match.is_near_duplicate:
            near_duplicates.append(place)
        else:
            found.append(match.found)
    places = sorted_unique(np.concatenate(found))
    kept[near_duplicates] = False
    return _screened(work, kept, places, np.ones_like(places))


def _tally(work: ScreeningWork) -> ScreenedPart:
    """Count how often held-out text holds each of its grams."""
    held_out = load_grams(work.held_out)
    kept = work.kept.of(work.part)
    found = [np.empty(0, dtype=np.int64)]
    for text in read_texts(work.folder, work.part, kept):
        hashes = below(gram_hashes(text), held_out.limit)
        found.append(np.searchsorted(held_out.hashes, hashes))  # each is there: this text was held out
    places, counts = np.unique(np.concatenate(found), return_counts=True)
    return _screened(work, kept, places, counts)


def _screened(work: ScreeningWork, kept: Flags, places: NDArray[np.int64], counts: NDArray[np.int64]) -> ScreenedPart:
    path = _places_path(work.folder, work.part)
    return ScreenedPart(
        files={path.name: replace_file(path, np.stack([places, counts]).tobytes())},
        kept_hex=PackedFlags.pack(kept).hex(),
        near_duplicates=int(work.kept.of(work.part).sum() - kept.sum()),
    )


def read_places(folder: Path, part: TextPart) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of held-out grams that the part's kept documents hold (`HeldOutGrams.hashes`), and how often: 1 in training text,
    where it is not counted."""
    places, counts = np.fromfile(_places_path(folder, part), dtype=np.int64).reshape(2, -1)
    return places, counts


def _places_path(folder: Path, part: TextPart) -> Path:
    return folder / f"{part.name}.places"
