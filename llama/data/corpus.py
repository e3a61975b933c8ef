"""Corpora: token shards by domain with the tokenizer that made them, built once, opened by every run.

    <storage>/corpora/<digest of the inputs>/
        tokenizer.model
        <domain>.train.bin   the training documents, each after a BOS, as one stream
        <domain>.val.bin     the held-out documents, likewise
        corpus.json          the manifest

`llama.data.building` builds it under another name and renames it when it is whole, so a folder of that name is a finished
corpus. Its own `digest` covers the tokens and the tokenizer: equal digests are equal corpora, wherever and from whatever
built.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llama.config import digest
from llama.data.shards import Tokens, open_shard, read_header, verify_shard
from llama.data.sources import CorpusSpec
from llama.errors import UserError
from llama.records import Record, read_record

if TYPE_CHECKING:
    from llama.data.tokenizer import Tokenizer  # loads sentencepiece, which planning does without

MANIFEST = "corpus.json"
TOKENIZER = "tokenizer.model"
SPLITS = ("train", "val")

#: Raise it when the same inputs begin to give other tokens: old folders are then built anew.
BUILD_VERSION = 3


class DomainManifest(Record):
    """What a corpus holds of one domain. Documents are counted after duplicates and near-duplicates were dropped."""

    origin: str
    train_documents: int
    validation_documents: int
    train_bytes: int
    """UTF-8 bytes of text; BOS tokens stand for none."""
    validation_bytes: int
    train_tokens: int
    """One BOS a document included."""
    validation_tokens: int
    duplicates: int
    """Documents left out because the same text came before, in this domain or an earlier one by name."""
    near_duplicates: int
    """Training documents left out because half of their 13-grams stand in held-out text of some domain."""
    skipped: dict[str, int]
    """Documents left out by reason: `not_utf8`, `not_text`, `empty`, `not_parsed`."""
    tokenizer_sample_bytes: int
    """Of its training text, what the tokenizer learned from."""
    held_out_grams: int
    """13-grams of words in its held-out text (`llama.data.near_duplicates`); a sample of them where there are very many."""
    held_out_grams_in_training: int
    """Of those, what some training document of any domain still holds."""
    train_sha256: str
    validation_sha256: str


class CorpusManifest(Record):
    """`corpus.json`."""

    format_version: int
    digest: str
    """Over the tokenizer and every shard's tokens."""
    input_digest: str
    """Over the spec, the sources' names and contents, and the tokenizer's library."""
    vocab_size: int
    tokenizer_sha256: str
    tokenizer_sample_sha256: str
    """Over the texts that the tokenizer learned from (`llama.data.tokenizer.sample_digest`)."""
    spec: CorpusSpec
    domains: dict[str, DomainManifest]


class Corpus:
    """An open corpus. Made by `open_corpus`; costs no memory until streams are read."""

    def __init__(self, folder: Path, manifest: CorpusManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def domains(self) -> dict[str, DomainManifest]:
        return self.manifest.domains

    @property
    def train_tokens(self) -> dict[str, int]:
        """By domain."""
        return {name: domain.train_tokens for name, domain in self.domains.items()}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from llama.data.tokenizer import Tokenizer

        return Tokenizer.load(self.folder / TOKENIZER, sha256=self.manifest.tokenizer_sha256)

    @property
    def token_bytes(self) -> NDArray[np.int64]:
        """`[vocab_size]`: UTF-8 bytes that each token stands for, 0 for the specials (`Tokenizer.token_bytes`)."""
        return self.tokenizer.token_bytes

    def train_stream(self, domain: str) -> Tokens:
        """The domain's training tokens `[n]`, memory-mapped.

        Raises:
            UserError: the corpus has no such domain, or its shard is absent or damaged.
        """
        return open_shard(self._shard(domain, "train"))

    def validation_stream(self, domain: str) -> Tokens:
        """The domain's held-out tokens `[n]`, memory-mapped. Raises as `train_stream`."""
        return open_shard(self._shard(domain, "val"))

    def _shard(self, domain: str, split: str) -> Path:
        if domain not in self.domains:
            raise UserError(f"corpus {self.folder} has no domain {domain!r}; it has {', '.join(sorted(self.domains))}")
        return shard_path(self.folder, domain, split)


def shard_path(folder: Path, domain: str, split: str) -> Path:
    return folder / f"{domain}.{split}.bin"


def open_corpus(folder: Path, *, verify: bool = False) -> Corpus:
    """Open a finished corpus and hold every shard's header against the manifest, which costs well under a millisecond.

    `verify` also reads all tokens and holds them against their SHA-256. Runs need it not: each stream that one opens is
    verified then.

    Raises:
        UserError: the folder holds no finished corpus, or a damaged one.
    """
    manifest = read_record(folder / MANIFEST, CorpusManifest)
    if manifest is None:
        raise UserError(f"{folder} holds no finished corpus: it has no {MANIFEST}")
    if manifest.format_version != BUILD_VERSION:
        raise UserError(
            f"corpus {folder} has format version {manifest.format_version}; this program reads {BUILD_VERSION}"
        )
    read = verify_shard if verify else read_header
    for name, domain in manifest.domains.items():
        expected = ((domain.train_tokens, domain.train_sha256), (domain.validation_tokens, domain.validation_sha256))
        for split, (tokens, sha256) in zip(SPLITS, expected, strict=True):
            path = shard_path(folder, name, split)
            header = read(path)
            found = (header.tokens, header.payload_sha256, header.vocab_size, header.tokenizer_sha256)
            if found != (tokens, sha256, manifest.vocab_size, manifest.tokenizer_sha256):
                raise UserError(
                    f"{path} is not the shard that {MANIFEST} beside it names; delete the folder and build it again"
                )
    if manifest.digest != content_digest(manifest.tokenizer_sha256, manifest.domains):
        raise UserError(f"{folder / MANIFEST} was changed: its digest does not match the shards it names")
    corpus = Corpus(folder, manifest)
    if verify:
        _ = corpus.tokenizer
    return corpus


def content_digest(tokenizer_sha256: str, domains: dict[str, DomainManifest]) -> str:
    """The manifest's `digest`."""
    shards = {name: [domain.train_sha256, domain.validation_sha256] for name, domain in domains.items()}
    return digest({"tokenizer": tokenizer_sha256, "shards": shards})
