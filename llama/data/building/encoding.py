"""The third stage: the documents that a text part still has become a part of a token shard."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llama.data.building.marks import Finished, once
from llama.data.building.texts import PackedFlags, TextPart, read_texts
from llama.data.files import sha256_of
from llama.data.shards import ShardHeader, ShardWriter, open_shard
from llama.data.tokenizer import Tokenizer
from llama.errors import UserError

_ENCODE_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class EncodingWork:
    """What one worker encodes in one go."""

    folder: Path
    part: TextPart
    kept: PackedFlags
    """Neither exact copies nor near-duplicates of held-out text."""
    tokenizer: Path
    tokenizer_sha256: str


class PartTokens(Finished):
    """What a part came to."""

    documents: int
    bytes: int
    """UTF-8 bytes of their text; BOS tokens stand for none."""
    tokens: int
    """One BOS a document included."""


def encode_part(work: EncodingWork) -> PartTokens:
    """Encode a part, or take up what an earlier process has encoded."""
    inputs = {"text": work.part.text_sha256, "kept": work.kept.hex(), "tokenizer": work.tokenizer_sha256}
    mark = work.folder / f"{work.part.name}.encode.json"
    return once(mark, inputs=inputs, kind=PartTokens, work=lambda: _encode(work))


def _encode(work: EncodingWork) -> PartTokens:
    tokenizer = _tokenizer(work.tokenizer, work.tokenizer_sha256)
    bos = np.array([tokenizer.bos_id], dtype=np.int32)
    documents = size_bytes = 0
    path = _tokens_path(work.folder, work.part)
    with ShardWriter(path, vocab_size=tokenizer.vocab_size, tokenizer_sha256=work.tokenizer_sha256) as shard:
        for batch, batch_bytes in _batches(read_texts(work.folder, work.part, work.kept.of(work.part))):
            shard.append(np.concatenate([ids for text in tokenizer.encode_batch(batch) for ids in (bos, text)]))
            documents += len(batch)
            size_bytes += batch_bytes
    return PartTokens(
        files={path.name: sha256_of(path)},
        documents=documents,
        bytes=size_bytes,
        tokens=shard.tokens,
    )


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


def _tokens_path(folder: Path, part: TextPart) -> Path:
    return folder / f"{part.name}.tokens"


class EncodedShard(NamedTuple):
    """A domain's training or held-out text in tokens."""

    documents: int
    bytes: int
    """UTF-8 bytes of their text; BOS tokens stand for none."""
    header: ShardHeader


def join_parts(
    folder: Path,
    parts: Sequence[tuple[TextPart, PartTokens]],
    shard: Path,
    *,
    vocab_size: int,
    tokenizer_sha256: str,
) -> EncodedShard:
    """Copy the parts' tokens in order into one shard."""
    with ShardWriter(shard, vocab_size=vocab_size, tokenizer_sha256=tokenizer_sha256) as writer:
        for part, _ in parts:
            writer.append(open_shard(_tokens_path(folder, part)))
    tokens = [tokens for _, tokens in parts]
    return EncodedShard(
        documents=sum(part.documents for part in tokens),
        bytes=sum(part.bytes for part in tokens),
        header=writer.header,
    )
