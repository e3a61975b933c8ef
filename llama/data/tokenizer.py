"""Text to token ids and back: one interface, whatever the vocabulary.

256 tokens are the bytes themselves (`ByteTokenizer`), more are pieces learned from text (`SentencePieceTokenizer`). Either is
its model file: equal files are equal tokenizers, and the file's SHA-256 names it in every shard.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama.errors import UserError

BYTES = 256
"""Every vocabulary holds every byte, so any text can be spelled."""

SMALLEST_LEARNED_VOCAB = BYTES + 4
"""Three specials, and one character of its own that SentencePiece needs."""


class Tokenizer(ABC):
    """Made by `train` or `load`. Any UTF-8 text comes back from its tokens exactly."""

    def __init__(self, model: bytes, pieces: Sequence[bytes], *, bos_id: int, eos_id: int) -> None:
        """From the model file's bytes and the UTF-8 bytes that each token stands for: none for the specials."""
        self.model = model
        self.bos_id = bos_id
        self.eos_id = eos_id
        self._pieces = pieces

    @staticmethod
    def train(sample: Iterable[str], *, vocab_size: int) -> Tokenizer:
        """A tokenizer of `vocab_size` that has learned from a sample of text. The same sample gives the same model file.

        Raises:
            UserError: there is no such vocabulary, or the sample does not support it; the message says which sizes it does.
        """
        from llama.data.byte_tokenizer import ByteTokenizer
        from llama.data.sentencepiece_tokenizer import SentencePieceTokenizer

        return ByteTokenizer() if vocab_size == BYTES else SentencePieceTokenizer.learn(sample, vocab_size=vocab_size)

    @staticmethod
    def load(path: Path, *, sha256: str | None = None) -> Tokenizer:
        """The tokenizer in a model file, whose SHA-256 is held against `sha256` before anything of it is parsed.

        Raises:
            UserError: the file is absent, not the one that the hash names, or no tokenizer's model.
        """
        from llama.data.byte_tokenizer import ByteTokenizer
        from llama.data.sentencepiece_tokenizer import SentencePieceTokenizer

        try:
            model = path.read_bytes()
        except OSError as error:
            raise UserError(f"tokenizer {path} cannot be read: {error.strerror}") from None
        if sha256 is not None and hashlib.sha256(model).hexdigest() != sha256:
            raise UserError(f"tokenizer {path} is not the one that was built: its SHA-256 is not {sha256[:12]}...")
        try:
            return ByteTokenizer() if model == ByteTokenizer.MODEL else SentencePieceTokenizer(model)
        except UserError as error:
            raise UserError(f"tokenizer {path}: {error}") from None

    def save(self, path: Path) -> None:
        path.write_bytes(self.model)

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model file."""
        return hashlib.sha256(self.model).hexdigest()

    @cached_property
    def token_bytes(self) -> NDArray[np.int64]:
        """`[vocab_size]`: UTF-8 bytes that each token stands for, 0 for the specials.

        Summed over a text's tokens it is exactly the text's length in bytes.
        """
        return np.array([len(piece) for piece in self._pieces], dtype=np.int64)

    def encode(self, text: str) -> NDArray[np.int32]:
        """Token ids `[n]` of one text, without BOS or EOS.

        Raises:
            UnicodeEncodeError: the text holds lone surrogates, so it is not UTF-8.
        """
        return self.encode_batch([text])[0]

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """`encode` of each text. Many short texts at once are encoded several times faster than one by one."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; specials stand for nothing. Exact for what `encode` gave; bytes that are no
        UTF-8, as a model may generate them, become U+FFFD.

        Raises:
            UserError: an id is beyond the vocabulary.
        """
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise UserError(f"token id {wrong} is outside the vocabulary of {self.vocab_size:,}")
        return b"".join([self._pieces[id_] for id_ in ids]).decode("utf-8", errors="replace")


def sample_digest(sample: Iterable[str]) -> str:
    """SHA-256 over the texts that a tokenizer learned from, in order, each after its length: it names the sample."""
    sha256 = hashlib.sha256()
    for text in sample:
        data = text.encode()
        sha256.update(len(data).to_bytes(8, "little"))
        sha256.update(data)
    return sha256.hexdigest()
