"""The second stage: a text part is rid of near-duplicates of held-out text and becomes a part of a token shard."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama.data.building.marks import Finished, once
from llama.data.building.texts import Flags, TextPart, read_texts, replace_file
from llama.data.files import sha256_of
from llama.data.near_duplicates import HeldOutGrams, below, gram_hashes, sorted_unique
from llama.data.shards import ShardHeader, ShardWriter, open_shard
from llama.data.tokenizer import Tokenizer
from llama.errors import UserError

_HELD_OUT_GRAMS = "held_out.grams"
_ENCODE_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class StoredGrams:
    """The held-out text's grams on disk, which the workers of one machine map into memory together."""

    path: Path
    sha256: str
    limit: int

    @classmethod
    def of(cls, grams: HeldOutGrams, folder: Path) -> StoredGrams:
        path = folder / _HELD_OUT_GRAMS
        array = io.BytesIO()
        np.save(array, grams.hashes)
        return cls(path=path, sha256=replace_file(path, array.getvalue()), limit=grams.limit)


@dataclass(frozen=True, kw_only=True)
class EncodingWork:
    """What one worker encodes in one go."""

    folder: Path
    part: TextPart
    kept: bytes
    """A bit a document, packed: those that are no exact copies."""
    tokenizer: Path
    tokenizer_sha256: str
    held_out: StoredGrams
    screen: bool
    """It is training text: near-duplicates of held-out text are left out."""

    @property
    def flags(self) -> Flags:
        bits = np.frombuffer(self.kept, dtype=np.uint8)
        return np.unpackbits(bits, count=self.part.documents).astype(np.bool_)


class PartTokens(Finished):
    """What a part came to."""

    documents: int
    bytes: int
    """UTF-8 bytes of their text; BOS tokens stand for none."""
    tokens: int
    """One BOS a document included."""
    near_duplicates: int
    """Documents left out because half of their 13-grams are held out."""


def encode_part(work: EncodingWork) -> PartTokens:
    """Encode a part, or take up what an earlier process has encoded."""
    inputs = {
        "text": work.part.text_sha256,
        "kept": work.kept.hex(),
        "tokenizer": work.tokenizer_sha256,
        "held_out": [work.held_out.sha256, work.held_out.limit],
        "screen": work.screen,
    }
    mark = work.folder / f"{work.part.name}.encode.json"
    return once(mark, inputs=inputs, kind=PartTokens, work=lambda: _encode(work))


def _encode(work: EncodingWork) -> PartTokens:
    tokenizer = _tokenizer(work.tokenizer, work.tokenizer_sha256)
    bos = np.array([tokenizer.bos_id], dtype=np.int32)
    documents = size_bytes = 0
    held_out = _held_out(work.held_out)
    grams = _Screen(held_out) if work.screen else _Tally(held_out)
    shard_path = _tokens_path(work.folder, work.part)
    with ShardWriter(shard_path, vocab_size=tokenizer.vocab_size, tokenizer_sha256=work.tokenizer_sha256) as shard:
        for batch, batch_bytes in _batches(grams.passed(read_texts(work.folder, work.part, work.flags))):
            shard.append(np.concatenate([ids for text in tokenizer.encode_batch(batch) for ids in (bos, text)]))
            documents += len(batch)
            size_bytes += batch_bytes
    places = _places_path(work.folder, work.part)
    files = {
        shard_path.name: sha256_of(shard_path),
        places.name: replace_file(places, np.stack([grams.places, grams.counts]).tobytes()),
    }
    return PartTokens(
        files=files,
        documents=documents,
        bytes=size_bytes,
        tokens=shard.tokens,
        near_duplicates=grams.near_duplicates,
    )


class _Screen:
    """Lets training texts through that are no near-duplicates, and keeps which held-out grams those still hold."""

    def __init__(self, held_out: HeldOutGrams) -> None:
        self._held_out = held_out
        self.places: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.near_duplicates = 0

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.ones_like(self.places)

    def passed(self, texts: Iterable[str]) -> Iterator[str]:
        found = [self.places]
        for text in texts:
            match = self._held_out.match(text)
            if match.is_near_duplicate:
                self.near_duplicates += 1
            else:
                found.append(match.found)
                yield text
        self.places = sorted_unique(np.concatenate(found))


class _Tally:
    """Lets held-out texts through, and counts how often they hold each of their grams."""

    near_duplicates = 0

    def __init__(self, held_out: HeldOutGrams) -> None:
        self._held_out = held_out
        self.places: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.counts: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def passed(self, texts: Iterable[str]) -> Iterator[str]:
        found = [self.places]
        for text in texts:
            hashes = below(gram_hashes(text), self._held_out.limit)
            found.append(np.searchsorted(self._held_out.hashes, hashes))  # each is there: this text was held out
            yield text
        self.places, self.counts = np.unique(np.concatenate(found), return_counts=True)


def _batches(texts: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    """Texts in lists of about `_ENCODE_BYTES`, each with its bytes."""
    batch: list[str] = []
    held_bytes = 0
    for text in texts:
        batch.append(text)
        held_bytes += len(text.encode())
        if held_bytes >= _ENCODE_BYTES:
            yield batch, held_bytes
            batch, held_bytes = [], 0
    if batch:
        yield batch, held_bytes


@functools.lru_cache(maxsize=1)  # its words are learned once a process
def _tokenizer(path: Path, sha256: str) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    if tokenizer.digest != sha256:
        raise UserError(f"{path} has changed since the build began; start it again")
    return tokenizer


@functools.lru_cache(maxsize=1)
def _held_out(stored: StoredGrams) -> HeldOutGrams:
    return HeldOutGrams(np.load(stored.path, mmap_mode="r"), stored.limit)


def _tokens_path(folder: Path, part: TextPart) -> Path:
    return folder / f"{part.name}.tokens"


def _places_path(folder: Path, part: TextPart) -> Path:
    return folder / f"{part.name}.places"


def read_places(folder: Path, part: TextPart) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of held-out grams that the part's kept documents hold (`HeldOutGrams.hashes`), and how often: 1 in training text,
    where it is not counted."""
    places, counts = np.fromfile(_places_path(folder, part), dtype=np.int64).reshape(2, -1)
    return places, counts


def join_parts(
    folder: Path, parts: Iterable[TextPart], shard: Path, *, vocab_size: int, tokenizer_sha256: str
) -> ShardHeader:
    """Copy the parts' tokens in order into one shard."""
    with ShardWriter(shard, vocab_size=vocab_size, tokenizer_sha256=tokenizer_sha256) as writer:
        for part in parts:
            writer.append(open_shard(_tokens_path(folder, part)))
    return writer.header
