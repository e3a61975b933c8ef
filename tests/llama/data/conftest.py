"""A small corpus of invented documents, built once for the tests that only read it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from llama.data.building.build import build_corpus
from llama.data.corpus import Corpus
from llama.data.sources import CorpusSpec, DomainSpec, TokenizerSpec

WORDS = ["the", "a", "model", "learns", "to", "predict", "what", "comes", "next", "from", "text", "0", "12", "345"]


def invented_text(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + f" #{seed}\n"


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(texts)))


def small_spec(**domains: DomainSpec) -> CorpusSpec:
    return CorpusSpec(
        domains=domains, tokenizer=TokenizerSpec(vocab_size=300, sample_bytes=50_000), held_out_fraction=0.2
    )


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two domains, `left` with about three times the text of `right`."""
    folder = tmp_path_factory.mktemp("small-corpus")
    write_jsonl(folder / "left.jsonl", [invented_text(n, 60) for n in range(150)])
    write_jsonl(folder / "right.jsonl", [invented_text(1000 + n, 60) for n in range(50)])
    spec = small_spec(
        left=DomainSpec(weight=3.0, files=["left.jsonl"]), right=DomainSpec(weight=1.0, files=["right.jsonl"])
    )
    return build_corpus(spec, folder / "storage", base=folder, report=lambda line: None)
