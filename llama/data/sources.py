"""Where documents come from: `CorpusSpec`, as a person writes it in YAML, and one iterator over every kind of source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from llama.config import Config, Positive, PositiveFloat
from llama.data.document import Document
from llama.data.files import file_sha256, find_files, read_file
from llama.data.hf_datasets import read_dataset
from llama.data.stdlib_corpus import TOPICS, manual_topics, origin, read_code, read_prose, stdlib_modules
from llama.data.tokenizer import BYTES, SMALLEST_LEARNED_VOCAB

#: A domain's name is part of file names and of metric names such as `val/<domain>/bpb`.
DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

DEFAULT_TEXT_FIELD = "text"
DEFAULT_SPLIT = "train"


class DomainSpec(Config):
    """One domain: its sampling weight and exactly one source, `stdlib`, `files` or `dataset`."""

    weight: PositiveFloat
    """Relative to the other domains' weights; they need not sum to 1."""

    stdlib: Literal["code", "prose"] | None = None
    """The running interpreter's standard library: its code without docstrings, or its docstrings and manual topics."""
    files: Annotated[list[str], Field(min_length=1)] | None = None
    """Files, folders or globs of .txt, .jsonl, .jsonl.gz, .jsonl.zst and .parquet, relative to the YAML's folder."""
    dataset: str | None = None
    """A Hugging Face dataset's name, read by streaming (needs the `hf` extra)."""

    text_field: str | None = None
    """With `files` or `dataset`: the field of a record that holds the text; "text" unless given."""
    config: str | None = None
    """With `dataset`: its configuration (subset)."""
    split: str | None = None
    """With `dataset`: "train" unless given."""
    revision: str | None = None
    """With `dataset`: commit or tag. Without it a corpus built today may differ from one built tomorrow."""
    max_documents: Positive | None = None
    """With `dataset`: stop after this many."""

    max_document_bytes: Annotated[int, Field(ge=256)] | None = None
    """Cut longer documents at line ends into documents of at most this many UTF-8 bytes. Documents are held out whole,
    so a domain that is one long file needs it."""

    @model_validator(mode="after")
    def _check(self) -> DomainSpec:
        given = [name for name in ("stdlib", "files", "dataset") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a domain has exactly one of stdlib, files and dataset; this one has {given or 'none'}")
        dataset_only = [name for name in ("config", "split", "revision", "max_documents") if getattr(self, name)]
        if self.dataset is None and dataset_only:
            raise ValueError(f"{', '.join(dataset_only)} go with dataset, not with {given[0]}")
        if self.stdlib is not None and self.text_field is not None:
            raise ValueError("text_field goes with files or dataset, not with stdlib")
        return self


class TokenizerSpec(Config):
    """Bytes, or a SentencePiece BPE tokenizer, trained on the corpus' own training documents."""

    vocab_size: Positive = 4096
    """256: a token a byte. From 260 on: pieces, the 256 bytes and the 3 specials included. LLaMA's is 32,000; models under a
    million parameters want far fewer (the quickstart takes 512), or the embeddings outweigh the layers."""
    sample_bytes: Positive = 8_000_000
    """UTF-8 bytes of training text that the tokenizer learns from, shared between the domains by weight."""

    @model_validator(mode="after")
    def _check(self) -> TokenizerSpec:
        if self.vocab_size != BYTES and self.vocab_size < SMALLEST_LEARNED_VOCAB:
            raise ValueError(
                f"vocab_size {self.vocab_size}: {BYTES} is the bytes, and from {SMALLEST_LEARNED_VOCAB} on it is learned"
            )
        return self


class CorpusSpec(Config):
    """What a corpus is made of. Equal specs over equal sources give the same corpus, bit for bit."""

    domains: Annotated[dict[str, DomainSpec], Field(min_length=1)]
    tokenizer: TokenizerSpec = TokenizerSpec()
    held_out_fraction: Annotated[float, Field(gt=0, le=0.5, allow_inf_nan=False)] = 0.05
    """Share of each domain's documents that is held out for validation, chosen by a hash of their text."""

    @model_validator(mode="after")
    def _check(self) -> CorpusSpec:
        for name in self.domains:
            if not DOMAIN_NAME.fullmatch(name):
                raise ValueError(f"domain name {name!r} must be letters, digits, _ and -: it names files and metrics")
        return self


@dataclass(frozen=True, kw_only=True)
class Source:
    """A domain's source, found but not yet read."""

    origin: str
    """What it is, in a few words."""
    parts: dict[str, str]
    """SHA-256 by name of every file or module that it will read. Empty for a dataset, which its spec alone names."""
    read_documents: Callable[[Counter[str]], Iterator[Document]]
    """Its documents in a fixed order. What cannot be used is counted by reason in the counter.

    Raises:
        UserError: a file is damaged, or a record lacks the text field.
    """


def open_source(domain: str, spec: DomainSpec, *, base: Path) -> Source:
    """Find what a domain reads. Relative paths are resolved against `base`.

    Raises:
        UserError: a pattern matches nothing, a file cannot be read, or there is no standard library in source.
    """
    where = f"domains.{domain}"
    text_field = spec.text_field or DEFAULT_TEXT_FIELD
    if spec.stdlib is not None:
        source = _stdlib_source(spec.stdlib)
    elif spec.files is not None:
        source = _files_source(find_files(spec.files, base=base, where=f"{where}.files"), text_field)
    else:
        assert spec.dataset is not None
        source = _dataset_source(spec.dataset, spec, text_field, where)
    limit_bytes = spec.max_document_bytes
    if limit_bytes is None:
        return source
    return Source(
        origin=source.origin,
        parts=source.parts,
        read_documents=lambda skipped: _cut_documents(source.read_documents(skipped), limit_bytes),
    )


def _stdlib_source(kind: Literal["code", "prose"]) -> Source:
    modules = stdlib_modules()
    parts = {module.name: sha256(module.source).hexdigest() for module in modules}
    if kind == "prose":
        topics = "\0".join(f"{topic}\0{text}" for topic, text in sorted(manual_topics().items()))
        parts[TOPICS] = sha256(topics.encode()).hexdigest()
    read = read_code if kind == "code" else read_prose
    return Source(
        origin=f"standard library of {origin()}, {len(modules)} modules",
        parts=parts,
        read_documents=lambda skipped: read(modules, skipped=skipped),
    )


def _files_source(files: dict[str, Path], text_field: str) -> Source:
    def read_documents(skipped: Counter[str]) -> Iterator[Document]:
        for name, path in files.items():
            yield from read_file(name, path, text_field=text_field, skipped=skipped)

    names = list(files)
    listed = ", ".join(names if len(names) <= 3 else [*names[:2], "...", names[-1]])
    return Source(
        origin=f"{len(names)} file{'s' * (len(names) > 1)}: {listed}",
        parts={name: file_sha256(path) for name, path in files.items()},
        read_documents=read_documents,
    )


def _dataset_source(name: str, spec: DomainSpec, text_field: str, where: str) -> Source:
    split = spec.split or DEFAULT_SPLIT
    selection = [spec.config, split, spec.revision and f"revision {spec.revision}"]
    return Source(
        origin=f"Hugging Face dataset {name} ({', '.join(part for part in selection if part)})",
        parts={},
        read_documents=lambda skipped: read_dataset(
            name,
            config=spec.config,
            split=split,
            revision=spec.revision,
            text_field=text_field,
            max_documents=spec.max_documents,
            where=where,
            skipped=skipped,
        ),
    )


def _cut_documents(documents: Iterator[Document], limit_bytes: int) -> Iterator[Document]:
    for document in documents:
        for number, text in enumerate(cut_text(document.text, limit_bytes), start=1):
            if text.strip():
                yield document._replace(id=f"{document.id}#{number}", text=text)


def cut_text(text: str, limit_bytes: int) -> Iterator[str]:
    """The text in parts of at most `limit_bytes` UTF-8 bytes: as many whole lines as fit, longer lines cut hard."""
    data = text.encode()
    start = 0
    while len(data) - start > limit_bytes:
        end = data.rfind(b"\n", start, start + limit_bytes) + 1
        if end == 0:
            end = start + limit_bytes
            while data[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
        yield data[start:end].decode()
        start = end
    yield data[start:].decode()
