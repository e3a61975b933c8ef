"""Near-duplicates of held-out text, by the 13-grams of words that they share.

A text is read as words: the runs of its letters, digits and combining marks (accents, vowel signs), in Unicode's composed
form (NFC) and lower case; white space, punctuation and symbols part them and are dropped. A language that is written without
spaces has clauses for words. Every 13 words in a row are one gram, as in GPT-3's overlap study (Brown et al. 2020, appendix C);
a text of fewer words is one gram as a whole.

A training document is a near-duplicate when at least half of its grams occur in the held-out text. A copy with a share e
of its words changed at random keeps (1 - e)^13 of its grams, so copies are found while less than 5 % of their words changed,
and so are excerpts of a held-out document; a long document that quotes a held-out one in a small part of itself is not.
What such quotations leave is counted: the share of the held-out grams that some kept training document holds. C4 and LLaMA
compare spans likewise (three sentences; lines, and books that overlap by 90 %), but training text with itself only.

Memory holds 10 to 12 bytes a held-out gram. Beyond `MAX_GRAMS` of them only grams whose hash is below a bound are held, of
both sides: a share is then estimated from a sample of a document's grams, and memory stays below 0.7 GiB, 1.6 while built.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from llama.data.permutation import mix_array

GRAM_WORDS = 13

NEAR_DUPLICATE_SHARE = 0.5

MAX_GRAMS = 1 << 26

Hashes = NDArray[np.uint64]

_CHARACTERS = 0x110000
_SEGMENT_CHARACTERS = 1 << 16
"""Texts are hashed in parts, so that the arrays of one part stay in the processor's cache."""
_PENDING_GRAMS = 1 << 22
_FILTER_BITS_A_GRAM = 16
_MULTIPLIER = 0x9E3779B97F4A7C15
_ALL_HASHES = 1 << 64


class Overlap(NamedTuple):
    """Grams of a text or of several, and how many of them were found. Repeated grams count each time."""

    grams: int
    shared: int

    @property
    def share(self) -> float:
        return self.shared / self.grams if self.grams else 0.0


class Match(NamedTuple):
    """What one text has in common with the held-out text."""

    overlap: Overlap
    found: NDArray[np.int64]
    """`[k]`: places in `HeldOutGrams.hashes` of the grams that it shares, each once, ascending."""

    @property
    def is_near_duplicate(self) -> bool:
        return self.overlap.grams > 0 and self.overlap.share >= NEAR_DUPLICATE_SHARE


class HeldOutGrams:
    """The grams of held-out text, to look training documents up in."""

    def __init__(self, hashes: Hashes, limit: int) -> None:
        """From hashes `[G]`, ascending and each once, all below `limit`: 2^64 unless they are a sample."""
        self.hashes = hashes
        self.limit = limit
        # Few grams of a training text are held: one look at a bit spares most of them a binary search, 4 to 20 times slower.
        bits = 1 << max(3, (_FILTER_BITS_A_GRAM * len(hashes) - 1).bit_length())
        self._mask = np.uint64(bits - 1)
        self._filter = np.zeros(bits // 8, dtype=np.uint8)
        for start in range(0, len(hashes), _PENDING_GRAMS):
            bytes_, masks = self._bit(hashes[start : start + _PENDING_GRAMS])
            np.bitwise_or.at(self._filter, bytes_, masks)

    def _bit(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Where the filter keeps a hash: the byte and the bit in it."""
        bits = (hashes & self._mask).view(np.int64)
        return bits >> 3, np.uint8(1) << (bits & 7).astype(np.uint8)

    def _find(self, hashes: Hashes) -> NDArray[np.int64]:
        """Places of those that are held, in the order of `hashes`."""
        bytes_, masks = self._bit(hashes)
        likely = hashes[(self._filter[bytes_] & masks) != 0]
        places = np.minimum(np.searchsorted(self.hashes, likely), len(self.hashes) - 1)
        return places[self.hashes[places] == likely] if len(likely) else places

    @classmethod
    def of(cls, gram_hashes: Iterable[Hashes], *, max_grams: int = MAX_GRAMS) -> HeldOutGrams:
        """From the hashes of texts' grams: every one or, where there are more than `max_grams`, a sample by their hash."""
        held: Hashes = np.empty(0, dtype=np.uint64)
        limit = _ALL_HASHES
        pending: list[Hashes] = []

        def merge() -> None:
            nonlocal held, limit
            held = sorted_unique(np.concatenate([held, *pending]))
            pending.clear()
            while len(held) > max_grams:
                limit //= 2
                held = held[: np.searchsorted(held, np.uint64(limit))].copy()

        for hashes in gram_hashes:
            pending.append(below(hashes, limit))
            if sum(map(len, pending)) > _PENDING_GRAMS:
                merge()
        merge()
        return cls(held, limit)

    def match(self, text: str) -> Match:
        """Look up a text's grams."""
        hashes = below(gram_hashes(text), self.limit)
        found = self._find(hashes)
        return Match(Overlap(len(hashes), len(found)), sorted_unique(found))


def below(hashes: Hashes, limit: int) -> Hashes:
    return hashes if limit == _ALL_HASHES else hashes[hashes < np.uint64(limit)]


N = TypeVar("N", bound=np.generic)


def sorted_unique(values: NDArray[N]) -> NDArray[N]:
    """`np.unique`, which since NumPy 2.3 puts all in a hash table first: eighty times slower on a million hashes."""
    ascending = np.sort(values)
    return ascending[np.concatenate([np.ones(min(1, len(values)), dtype=np.bool_), ascending[1:] != ascending[:-1]])]


def gram_hashes(text: str) -> Hashes:
    """64-bit hashes `[n]` of a text's grams in order: its words less 12 of them, one for a shorter text, none without words."""
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    words = np.concatenate([_word_hashes(segment) for segment in _segments(composed)] or [np.empty(0, dtype=np.uint64)])
    if not len(words):
        return words
    length = min(GRAM_WORDS, len(words))
    grams = np.full(len(words) - length + 1, length, dtype=np.uint64)
    for place in range(length):
        grams *= np.uint64(_MULTIPLIER)
        grams += words[place : place + len(grams)]
    return mix_array(grams)


def _segments(text: str) -> Iterator[str]:
    """The text in parts, cut at white space where there is any, since a word must not be cut."""
    start = 0
    while len(text) - start > _SEGMENT_CHARACTERS:
        limit = start + _SEGMENT_CHARACTERS
        end = max(text.rfind(" ", start, limit), text.rfind("\n", start, limit)) + 1 or limit
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _word_hashes(text: str) -> Hashes:
    """A polynomial in `_MULTIPLIER` over the codes of each word's characters, modulo 2^64."""
    codes = _character_codes()[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]
    is_word = codes != 0
    starts = np.flatnonzero(is_word[1:] & ~is_word[:-1]) + 1
    if is_word[0]:
        starts = np.concatenate([[0], starts])
    if not len(starts):
        return np.empty(0, dtype=np.uint64)
    powers, inverse_powers = _powers()
    # Characters between words have the code 0, so a sum up to the next word's start is a sum over the word.
    return mix_array(np.add.reduceat(codes * powers[: len(codes)], starts) * inverse_powers[starts])


@cache
def _character_codes() -> Hashes:
    """`[0x110000]`: a random-looking code of every letter, digit and mark, the same for both cases; 0 for what parts words."""
    lower = np.zeros(_CHARACTERS, dtype=np.uint64)
    for point in range(_CHARACTERS):
        character = chr(point)
        if character.isalnum() or unicodedata.category(character).startswith("M"):
            lowered = character.lower()
            lower[point] = ord(lowered) if len(lowered) == 1 else point
    codes = mix_array(lower * np.uint64(_MULTIPLIER))
    codes[lower == 0] = 0
    return codes


@cache
def _powers() -> tuple[Hashes, Hashes]:
    """`_MULTIPLIER`^i modulo 2^64 and its inverse for every place i in a segment."""
    factors = np.ones((2, _SEGMENT_CHARACTERS), dtype=np.uint64)
    factors[0, 1:] = _MULTIPLIER
    factors[1, 1:] = pow(_MULTIPLIER, -1, _ALL_HASHES)
    forward, inverse = np.multiply.accumulate(factors, axis=1)
    return forward, inverse
