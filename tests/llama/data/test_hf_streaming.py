"""Hugging Face `datasets` by its real library, streaming a dataset that lies in a local folder."""

import json
from pathlib import Path

import pytest

from llama.data.building.build import build_corpus
from llama.data.sources import CorpusSpec, DomainSpec, TokenizerSpec

pytest.importorskip("datasets", reason="needs the hf extra")


def test_a_dataset_is_streamed_up_to_the_documents_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    records = [
        {"text": f"document {number}: " + " ".join(f"word {number * 80 + place}" for place in range(80))}
        for number in range(60)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    spec = CorpusSpec(
        domains={"hub": DomainSpec(weight=1.0, dataset=str(folder), split="train", max_documents=50)},
        tokenizer=TokenizerSpec(vocab_size=270, sample_bytes=20_000),
        held_out_fraction=0.2,
    )
    corpus = build_corpus(spec, tmp_path / "storage", base=tmp_path, report=lambda line: None)
    domain = corpus.domains["hub"]
    assert domain.train_documents + domain.validation_documents == 50
    assert "document" in corpus.tokenizer.decode(corpus.train_stream("hub")[:100])
