from __future__ import annotations

import random
from pathlib import Path

import pytest

from llama.config import RunConfig
from llama.data.building.build import build_corpus
from llama.data.corpus import Corpus
from llama.data.sources import CorpusSpec, DomainSpec, TokenizerSpec
from llama.trainer import train_segment
from tests.llama.shapes import tiny_run

WORDS = ["the", "a", "model", "token", "law", "loss", "small", "large", "train", "serve", "curve", "point", "run"]


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two domains of made-up text, some ten thousand tokens each, vocabulary 300."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    for domain in ("plain", "upper"):
        (folder / domain).mkdir()
        for number in range(60):
            text = " ".join(draw.choices(WORDS, k=200))
            (folder / domain / f"{number}.txt").write_text(text.upper() if domain == "upper" else text)
    spec = CorpusSpec(
        domains={
            "plain": DomainSpec(weight=3.0, files=["plain/*.txt"]),
            "upper": DomainSpec(weight=1.0, files=["upper/*.txt"]),
        },
        tokenizer=TokenizerSpec(vocab_size=300, sample_bytes=50_000),
        held_out_fraction=0.2,
    )
    storage: Path = tmp_path_factory.mktemp("storage")
    return build_corpus(spec, storage, base=folder, report=lambda line: None)


@pytest.fixture(scope="module")
def whole(
    request: pytest.FixtureRequest, tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunConfig, Path]:
    """A run of the module's `STEPS` that nobody disturbed, and its folder."""
    steps: int = request.module.STEPS
    config = tiny_run(corpus_digest=tiny_corpus.digest, weights={"plain": 0.75, "upper": 0.25}, tokens=64 * steps)
    folder = tmp_path_factory.mktemp("whole")
    train_segment(config, run_folder=folder, corpus=tiny_corpus, until_step=steps)
    return config, folder
