"""Where documents come from: `CorpusSpec`, as a person writes it in YAML, and one iterator over every kind of source."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from llama.config import Config, Positive, PositiveFloat

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
    """A SentencePiece BPE tokenizer, trained on the corpus' own training documents."""

    vocab_size: Annotated[int, Field(ge=1)] = 4096
    """Pieces, the 256 bytes and the 3 specials included. LLaMA's is 32,000; models under a million parameters want far
    fewer (the quickstart takes 512), or the embeddings outweigh the layers."""
    sample_bytes: Positive = 8_000_000
    """UTF-8 bytes of training text that the tokenizer learns from, shared between the domains by weight."""


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
