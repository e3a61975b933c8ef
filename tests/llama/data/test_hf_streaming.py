"""Hugging Face `datasets` by its real library, streaming a dataset that lies in a local folder."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llama.data.building.build import build_corpus
from llama.data.sources import CorpusSpec, DomainSpec, TokenizerSpec, open_source
from llama.errors import UserError

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


def read(**fields: Any) -> tuple[list[str], Counter[str]]:
    skipped: Counter[str] = Counter()
    source = open_source("hub", DomainSpec(weight=1.0, **fields), base=Path())
    return [document.text for document in source.read_documents(skipped)], skipped


RECORDS = [{"content": f"text {number} é"} for number in range(30)] + [{"content": " "}, {"content": None}]


def write_packed(folder: Path, packing: str) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
    if packing == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").Table.from_pylist(RECORDS)
        parquet.write_table(table, folder / "train.parquet", row_group_size=7)
    elif packing == "jsonl.gz":
        (folder / "train.jsonl.gz").write_bytes(gzip.compress(lines))
    elif packing == "jsonl.zst":
        (folder / "train.jsonl.zst").write_bytes(pytest.importorskip("zstandard").compress(lines))
    else:
        (folder / "train.jsonl").write_bytes(lines)


@pytest.mark.parametrize("packing", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_a_dataset_is_its_files_whatever_their_packing(tmp_path: Path, packing: str) -> None:
    write_packed(tmp_path, packing)
    texts, skipped = read(dataset=str(tmp_path), text_field="content")
    assert texts == [record["content"] for record in RECORDS[:30]]
    assert skipped == {"empty": 1, "not_text": 1}
    assert read(dataset=str(tmp_path), text_field="content", max_documents=7)[0] == texts[:7]
    with pytest.raises(UserError, match=r"domains\.hub: dataset .* has no field 'text'; its fields are: content"):
        read(dataset=str(tmp_path))


@pytest.mark.parametrize("fields", [{"split": "absent"}, {"config": "absent"}])
def test_a_part_that_a_dataset_lacks_is_a_message(tmp_path: Path, fields: dict[str, str]) -> None:
    write_packed(tmp_path, "jsonl")
    with pytest.raises(UserError, match=r"domains\.hub: dataset .* cannot be read: .*absent"):
        read(dataset=str(tmp_path), text_field="content", **fields)


@pytest.mark.parametrize("packing", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_a_damaged_file_of_a_dataset_is_a_message(tmp_path: Path, packing: str) -> None:
    write_packed(tmp_path, packing)
    path = tmp_path / f"train.{packing}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"domains\.hub: dataset .* cannot be read: "):
        read(dataset=str(tmp_path), text_field="content")


def test_what_a_file_says_after_its_damage_is_not_lost_in_silence(tmp_path: Path) -> None:
    lines = [json.dumps(record).encode() for record in RECORDS[:30]]
    lines[20] = lines[20][:8]
    (tmp_path / "train.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"domains\.hub: dataset .* cannot be read: "):
        read(dataset=str(tmp_path), text_field="content")


def test_an_absent_dataset_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"domains\.hub: dataset .* cannot be read: "):
        read(dataset=str(tmp_path / "absent"))
