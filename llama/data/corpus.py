"""Corpora: token shards by domain with the tokenizer that made them, built once, opened by every run.

    <storage>/corpora/<digest of the inputs>/
        tokenizer.model
        <domain>.train.bin   the training documents, each after a BOS, as one stream
        <domain>.val.bin     the held-out documents, likewise
        corpus.json          the manifest

A corpus is built under a temporary name and renamed when it is whole, so a folder of that name is a finished corpus.
Two processes never build one corpus at once: the second waits, and takes up what the first has built.
Its own `digest` covers the tokens and the tokenizer: equal digests are equal corpora, wherever and from whatever built.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llama.config import digest
from llama.data.shards import ShardHeader, ShardWriter, Tokens, open_shard, read_header, verify_shard
from llama.data.sources import CorpusSpec, Source, open_source
from llama.data.spool import Spool
from llama.errors import UserError
from llama.records import Record, read_record, write_record

if TYPE_CHECKING:
    from llama.data.tokenizer import Tokenizer  # loads sentencepiece, which planning does without

MANIFEST = "corpus.json"
TOKENIZER = "tokenizer.model"
SPLITS = ("train", "val")

#: Raise it when the same inputs begin to give other tokens: old folders are then built anew.
BUILD_VERSION = 1

MIN_VALIDATION_TOKENS = 256

_ENCODE_BYTES = 1 << 22
_REPORT_SECONDS = 5.0


class DomainManifest(Record):
    """What a corpus holds of one domain. Documents are counted after exact duplicates were dropped."""

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
    skipped: dict[str, int]
    """Documents left out by reason: `not_utf8`, `not_text`, `empty`, `not_parsed`."""
    tokenizer_sample_bytes: int
    """Of its training text, what the tokenizer learned from."""
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
    spec: CorpusSpec
    domains: dict[str, DomainManifest]


class Corpus:
    """An open corpus. Made by `open_corpus` or `build_corpus`; costs no memory until streams are read."""

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

        tokenizer = Tokenizer.load(self.folder / TOKENIZER)
        if tokenizer.digest != self.manifest.tokenizer_sha256:
            raise UserError(f"{self.folder / TOKENIZER} is not the tokenizer that {MANIFEST} beside it names")
        return tokenizer

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

    `verify` also reads all tokens and holds them against their SHA-256: `build_corpus` does it, runs need not.

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
    corpus = Corpus(folder, manifest)
    if verify:
        _ = corpus.tokenizer
        if manifest.digest != _content_digest(manifest.tokenizer_sha256, manifest.domains):
            raise UserError(f"{folder / MANIFEST} was changed: its digest does not match the shards it names")
    return corpus


def build_corpus(spec: CorpusSpec, storage: Path, *, base: Path, report: Callable[[str], None]) -> Corpus:
    """Build the corpus under `storage`, or take up the finished one that the same inputs gave before.

    The same inputs give the same bytes. Memory holds about 100 bytes a document and the tokenizer's sample, never the
    text. Relative paths in the spec are resolved against `base`; `report` gets a line of progress now and then.

    Raises:
        UserError: a source is absent, damaged or without a usable document; a domain is too small to hold any out;
            the tokenizer's vocabulary does not fit; the storage cannot be written.
    """
    sources = {name: open_source(name, spec.domains[name], base=base) for name in sorted(spec.domains)}
    input_digest = digest(
        {
            "build_version": BUILD_VERSION,
            "sentencepiece": version("sentencepiece"),
            "spec": spec.model_dump(mode="json"),
            "sources": {name: source.parts for name, source in sources.items()},
        }
    )
    folder = storage / "corpora" / input_digest[:16]
    if not (folder / MANIFEST).exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_name(f".{folder.name}.lock"), report):
                if not (folder / MANIFEST).exists():  # else built while this process waited
                    _build_folder(spec, sources, folder, input_digest, report)
        except OSError as error:
            raise UserError(f"the corpus cannot be written in {folder.parent}: {error.strerror or error}") from error
    return open_corpus(folder, verify=True)


@contextmanager
def _locked(lock: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lock, which ends with the process however that ends."""
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process is building this corpus: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_folder(
    spec: CorpusSpec, sources: dict[str, Source], folder: Path, input_digest: str, report: Callable[[str], None]
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed build left
    partial.mkdir()
    try:
        write_record(partial / MANIFEST, _build(spec, sources, partial, input_digest, report))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _build(
    spec: CorpusSpec, sources: dict[str, Source], folder: Path, input_digest: str, report: Callable[[str], None]
) -> CorpusManifest:
    from llama.data.tokenizer import Tokenizer

    with ExitStack() as stack:
        seen: set[bytes] = set()
        texts: dict[str, _DomainTexts] = {}
        for name, source in sources.items():
            train, validation = (stack.enter_context(Spool(folder)) for _ in SPLITS)
            texts[name] = _read(name, source, spec.held_out_fraction, train, validation, seen, report)

        total_weight = sum(domain.weight for domain in spec.domains.values())
        sample: list[str] = []
        sample_bytes: dict[str, int] = {}
        for name, domain in texts.items():
            share = domain.train.sample(int(spec.tokenizer.sample_bytes * spec.domains[name].weight / total_weight))
            sample_bytes[name] = sum(len(text.encode()) for text in share)
            sample += share
        started = time.monotonic()
        tokenizer = Tokenizer.train(sample, vocab_size=spec.tokenizer.vocab_size)
        tokenizer.save(folder / TOKENIZER)
        report(f"tokenizer: {tokenizer.vocab_size:,} pieces from {_rate(sum(sample_bytes.values()), started)}")

        domains: dict[str, DomainManifest] = {}
        for name, domain in texts.items():
            headers = [
                _encode(spool, tokenizer, shard_path(folder, name, split), f"{name} {split}", report)
                for split, spool in zip(SPLITS, (domain.train, domain.validation), strict=True)
            ]
            domains[name] = domain.manifest(sources[name].origin, sample_bytes[name], *headers)
            _require_validation(name, domain, headers[1].tokens, spec.held_out_fraction)
    return CorpusManifest(
        format_version=BUILD_VERSION,
        digest=_content_digest(tokenizer.digest, domains),
        input_digest=input_digest,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.digest,
        spec=spec,
        domains=domains,
    )


def _content_digest(tokenizer_sha256: str, domains: dict[str, DomainManifest]) -> str:
    shards = {name: [domain.train_sha256, domain.validation_sha256] for name, domain in domains.items()}
    return digest({"tokenizer": tokenizer_sha256, "shards": shards})


class _DomainTexts:
    """One domain's documents, read and split."""

    def __init__(self, train: Spool, validation: Spool, duplicates: int, skipped: Counter[str]) -> None:
        self.train = train
        self.validation = validation
        self.duplicates = duplicates
        self.skipped = skipped

    def manifest(self, origin: str, sample_bytes: int, train: ShardHeader, validation: ShardHeader) -> DomainManifest:
        return DomainManifest(
            origin=origin,
            train_documents=self.train.documents,
            validation_documents=self.validation.documents,
            train_bytes=self.train.bytes,
            validation_bytes=self.validation.bytes,
            train_tokens=train.tokens,
            validation_tokens=validation.tokens,
            duplicates=self.duplicates,
            skipped=dict(sorted(self.skipped.items())),
            tokenizer_sample_bytes=sample_bytes,
            train_sha256=train.payload_sha256,
            validation_sha256=validation.payload_sha256,
        )


def _read(
    name: str,
    source: Source,
    held_out_fraction: float,
    train: Spool,
    validation: Spool,
    seen: set[bytes],
    report: Callable[[str], None],
) -> _DomainTexts:
    """Read a domain's documents into two spools.

    A document is held out by the hash of its text alone: it stays on its side as a corpus grows, and an exact copy in
    another domain falls on the same side.
    """
    started = reported = time.monotonic()
    skipped: Counter[str] = Counter()
    duplicates = 0
    for document in source.read_documents(skipped):
        text = document.text.encode()
        text_hash = blake2b(text, digest_size=16).digest()
        if text_hash in seen:
            duplicates += 1
            continue
        seen.add(text_hash)
        held_out = int.from_bytes(text_hash[:8], "little") < held_out_fraction * 2**64
        (validation if held_out else train).append(text, rank=int.from_bytes(text_hash[8:], "little"))
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            report(f"{name}: reading, {_rate(train.bytes + validation.bytes, started)} so far")
    documents = train.documents + validation.documents
    left_out = {**skipped, "duplicates": duplicates} if duplicates else dict(skipped)
    notes = "".join(f", {count:,} {reason.replace('_', ' ')}" for reason, count in sorted(left_out.items()))
    if documents == 0:
        raise UserError(f"domain {name!r} ({source.origin}) has no usable document{notes and f': it has{notes[1:]}'}")
    report(f"{name}: {documents:,} documents, {_rate(train.bytes + validation.bytes, started)}{notes}")
    texts = _DomainTexts(train, validation, duplicates, skipped)
    if train.documents == 0 or validation.documents == 0:
        _require_validation(name, texts, 0, held_out_fraction)
    return texts


def _encode(spool: Spool, tokenizer: Tokenizer, path: Path, name: str, report: Callable[[str], None]) -> ShardHeader:
    """Tokenize a spool into a shard, a BOS before each document."""
    started = reported = time.monotonic()
    done_bytes = 0
    bos = np.array([tokenizer.bos_id], dtype=np.int32)
    with ShardWriter(path, vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.digest) as shard:
        for batch in spool.batches(_ENCODE_BYTES):
            shard.append(np.concatenate([part for ids in tokenizer.encode_batch(batch) for part in (bos, ids)]))
            done_bytes += sum(len(text.encode()) for text in batch)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                report(f"{name}: encoding, {_rate(done_bytes, started)} of {spool.bytes / 1e6:.1f} MB")
    report(f"{name}: {shard.tokens:,} tokens from {_rate(spool.bytes, started)}")
    return shard.header


def _require_validation(name: str, domain: _DomainTexts, tokens: int, held_out_fraction: float) -> None:
    if tokens >= MIN_VALIDATION_TOKENS:
        return
    documents = domain.train.documents + domain.validation.documents
    raise UserError(
        f"domain {name!r} is too small: of its {documents:,} documents {domain.validation.documents:,} were held out "
        f"(held_out_fraction {held_out_fraction:g}), {tokens:,} tokens where {MIN_VALIDATION_TOKENS} are needed, and "
        f"{domain.train.documents:,} are left for training; give it more documents, raise held_out_fraction, or cut long "
        f"documents with max_document_bytes"
    )


def _rate(size_bytes: int, started: float) -> str:
    seconds = max(time.monotonic() - started, 1e-9)
    return f"{size_bytes / 1e6:,.1f} MB in {seconds:.1f} s ({size_bytes / 1e6 / seconds:,.1f} MB/s)"
