from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama.data.corpus import MANIFEST, Corpus, build_corpus, open_corpus
from llama.data.sources import CorpusSpec, DomainSpec, TokenizerSpec
from llama.errors import UserError

from .conftest import invented_text, small_spec, write_jsonl


def silent(line: str) -> None:
    pass


def build(folder: Path, spec: CorpusSpec) -> Corpus:
    return build_corpus(spec, folder / "storage", base=folder, report=silent)


def one_domain(folder: Path, texts: list[str], **fields: Any) -> CorpusSpec:
    write_jsonl(folder / "d.jsonl", texts)
    return small_spec(d=DomainSpec(weight=1.0, files=["d.jsonl"], **fields))


def documents(corpus: Corpus, stream: np.ndarray) -> list[str]:
    text = [stream[start:] for start in np.flatnonzero(stream == corpus.tokenizer.bos_id)]
    ends = [len(a) - len(b) for a, b in zip(text, [*text[1:], stream[:0]], strict=True)]
    return [corpus.tokenizer.decode(ids[:end]) for ids, end in zip(text, ends, strict=True)]


TEXTS = [invented_text(n, 50) for n in range(100)]


def test_every_document_is_in_exactly_one_stream_as_it_was(tmp_path: Path) -> None:
    corpus = build(tmp_path, one_domain(tmp_path, [*TEXTS, "odd: \u2581 é\0\t", *TEXTS[:7], "  "]))
    train = documents(corpus, corpus.train_stream("d"))
    held_out = documents(corpus, corpus.validation_stream("d"))
    assert sorted(train + held_out) == sorted([*TEXTS, "odd: \u2581 é\0\t"])
    record = corpus.domains["d"]
    assert (record.train_documents, record.validation_documents) == (len(train), len(held_out))
    assert (record.duplicates, record.skipped) == (7, {"empty": 1})
    assert record.train_bytes == sum(len(text.encode()) for text in train)
    assert record.validation_tokens == len(corpus.validation_stream("d"))
    assert corpus.token_bytes[corpus.train_stream("d")].sum() == record.train_bytes
    assert record.origin == "1 file: d.jsonl"
    assert 0 < record.tokenizer_sample_bytes <= record.train_bytes


def test_duplicates_across_domains_are_kept_once_and_on_one_side(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", TEXTS[:70])
    write_jsonl(tmp_path / "b.jsonl", TEXTS[30:])
    spec = small_spec(**{name: DomainSpec(weight=1.0, files=[f"{name}.jsonl"]) for name in "ab"})
    corpus = build(tmp_path, spec)
    streams = [corpus.train_stream("a"), corpus.train_stream("b")]
    held_out = [corpus.validation_stream("a"), corpus.validation_stream("b")]
    everything = [text for stream in streams + held_out for text in documents(corpus, stream)]
    assert sorted(everything) == sorted(TEXTS)
    assert corpus.domains["b"].duplicates == 40


def test_a_document_stays_on_its_side_as_the_corpus_grows(tmp_path: Path) -> None:
    small = build(tmp_path, one_domain(tmp_path, TEXTS[:60]))
    held_out = set(documents(small, small.validation_stream("d")))
    large = build(tmp_path, one_domain(tmp_path, TEXTS))
    assert held_out == set(documents(large, large.validation_stream("d"))) & set(TEXTS[:60])


def test_equal_inputs_give_equal_corpora_anywhere(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (build(tmp_path / name, one_domain(tmp_path / name, TEXTS)) for name in ("one", "two"))
    assert one.digest == two.digest
    assert one.folder.name == two.folder.name
    for file in one.folder.iterdir():
        assert file.read_bytes() == (two.folder / file.name).read_bytes()


def test_a_finished_corpus_is_taken_up_without_reading_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = one_domain(tmp_path, TEXTS)
    first = build(tmp_path, spec)
    monkeypatch.setattr("llama.data.corpus._build", None)
    assert build(tmp_path, spec).digest == first.digest


def test_any_change_of_inputs_gives_another_folder(tmp_path: Path) -> None:
    spec = one_domain(tmp_path, TEXTS)
    folders = {build(tmp_path, spec).folder}
    folders.add(build(tmp_path, spec.model_copy(update={"held_out_fraction": 0.3})).folder)
    tokenizer = TokenizerSpec(vocab_size=310, sample_bytes=50_000)
    folders.add(build(tmp_path, spec.model_copy(update={"tokenizer": tokenizer})).folder)
    folders.add(build(tmp_path, one_domain(tmp_path, TEXTS[:-1])).folder)
    assert len(folders) == 4


def test_the_tokenizer_learns_from_training_text_alone_and_by_weight(tmp_path: Path) -> None:
    # Held-out documents of one domain are full of a word that training text never has: it must get no piece.
    plain = build(tmp_path, one_domain(tmp_path, TEXTS))
    held_out = set(documents(plain, plain.validation_stream("d")))
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    write_jsonl(tmp_path / "b.jsonl", [invented_text(n, 500) for n in range(500, 560)])
    spec = small_spec(
        a=DomainSpec(weight=1.0, files=["a.jsonl"]), b=DomainSpec(weight=9.0, files=["b.jsonl"])
    ).model_copy(update={"tokenizer": TokenizerSpec(vocab_size=300, sample_bytes=20_000)})
    corpus = build(tmp_path, spec)
    assert corpus.domains["a"].tokenizer_sample_bytes == 2_000
    assert corpus.domains["b"].tokenizer_sample_bytes == 18_000
    assert held_out == set(documents(corpus, corpus.validation_stream("a")))


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = one_domain(tmp_path, TEXTS)
    monkeypatch.setattr("llama.data.corpus.write_record", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path, spec)
    assert visible(tmp_path / "storage" / "corpora") == []


BUILD_SCRIPT = """
import os, signal, sys, pathlib
from llama.data import corpus
from llama.data.sources import CorpusSpec
base, spec, kill = pathlib.Path(sys.argv[1]), CorpusSpec.model_validate_json(sys.argv[2]), sys.argv[3] == "kill"
if kill:
    corpus.write_record = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
print(corpus.build_corpus(spec, base / "storage", base=base, report=lambda line: None).digest)
"""


def start_build(folder: Path, spec: CorpusSpec, *, kill: bool = False) -> subprocess.Popen[str]:
    arguments = [str(folder), spec.model_dump_json(), "kill" if kill else ""]
    return subprocess.Popen([sys.executable, "-c", BUILD_SCRIPT, *arguments], stdout=subprocess.PIPE, text=True)


def test_a_killed_build_is_no_corpus_and_the_next_one_builds_it(tmp_path: Path) -> None:
    spec = one_domain(tmp_path, TEXTS)
    killed = start_build(tmp_path, spec, kill=True)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    (left,) = visible(tmp_path / "storage" / "corpora")
    with pytest.raises(UserError, match="holds no finished corpus"):
        open_corpus(left)
    corpus = build(tmp_path, spec)
    assert visible(corpus.folder.parent) == [corpus.folder]


def test_two_builds_at_once_give_one_corpus(tmp_path: Path) -> None:
    spec = one_domain(tmp_path, TEXTS)
    both = [start_build(tmp_path, spec) for _ in range(2)]
    digests = [process.communicate()[0] for process in both]
    assert digests[0] == digests[1] == build(tmp_path, spec).digest + "\n"
    assert len(visible(tmp_path / "storage" / "corpora")) == 1


@pytest.mark.parametrize(
    ("texts", "fields", "message"),
    [
        (["", " "], {}, "domain 'd' .1 file: d.jsonl. has no usable document: it has 2 empty"),
        ([TEXTS[0]], {}, "domain 'd' is too small: of its 1 documents .* were held out"),
        (["a b", "c d", *"efghijklmnopqrstuv"], {}, "tokens where 256 are needed"),
        (TEXTS, {"text_field": "body"}, "has no field 'body'; its fields are: id, text"),
    ],
)
def test_domains_that_cannot_be_used_are_named(
    tmp_path: Path, texts: list[str], fields: dict[str, Any], message: str
) -> None:
    spec = one_domain(tmp_path, texts, **fields)
    smallest = spec.model_copy(update={"tokenizer": TokenizerSpec(vocab_size=260, sample_bytes=1000)})
    with pytest.raises(UserError, match=message):
        build(tmp_path, smallest)
    assert visible(tmp_path / "storage" / "corpora") == []


def test_one_long_file_can_be_cut(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("".join(TEXTS))
    with pytest.raises(UserError, match="max_document_bytes"):
        build(tmp_path, small_spec(d=DomainSpec(weight=1.0, files=["book.txt"])))
    corpus = build(tmp_path, small_spec(d=DomainSpec(weight=1.0, files=["book.txt"], max_document_bytes=1000)))
    record = corpus.domains["d"]
    assert record.train_bytes + record.validation_bytes == (tmp_path / "book.txt").stat().st_size


def test_storage_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    spec = one_domain(tmp_path, TEXTS)
    (tmp_path / "storage").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written in .*storage"):
        build(tmp_path, spec)


def test_progress_is_reported_with_sizes_and_rates(tmp_path: Path) -> None:
    lines: list[str] = []
    spec = one_domain(tmp_path, TEXTS)
    build_corpus(spec, tmp_path / "storage", base=tmp_path, report=lines.append)
    assert len(lines) == 4
    assert all("MB/s" in line for line in lines)


class TestDamage:
    """What is not a finished, undamaged corpus is refused when it is opened."""

    @pytest.fixture
    def folder(self, small_corpus: Corpus, tmp_path: Path) -> Path:
        return shutil.copytree(small_corpus.folder, tmp_path / "copy")

    def test_a_copy_opens(self, folder: Path, small_corpus: Corpus) -> None:
        assert open_corpus(folder, verify=True).digest == small_corpus.digest

    @pytest.mark.parametrize("name", ["left.train.bin", "right.val.bin"])
    def test_shards_absent_short_or_swapped(self, folder: Path, name: str) -> None:
        shard = folder / name
        data = shard.read_bytes()
        shard.write_bytes(data[:-2])
        with pytest.raises(UserError, match=f"{name} holds"):
            open_corpus(folder)
        shard.write_bytes((folder / "left.val.bin").read_bytes())
        with pytest.raises(UserError, match=f"{name} is not the shard"):
            open_corpus(folder)
        shard.unlink()
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            open_corpus(folder)

    def test_changed_tokens_are_found_by_verifying(self, folder: Path) -> None:
        data = bytearray((folder / "left.train.bin").read_bytes())
        data[-1] ^= 1
        (folder / "left.train.bin").write_bytes(data)
        open_corpus(folder)
        with pytest.raises(UserError, match=r"left\.train\.bin is damaged"):
            open_corpus(folder, verify=True)

    def test_another_tokenizer_is_refused(self, folder: Path) -> None:
        (folder / "tokenizer.model").write_bytes(b"x")
        with pytest.raises(UserError, match="not a SentencePiece model"):
            open_corpus(folder, verify=True)

    def test_a_manifest_of_another_kind(self, folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, "digest": "0" * 64}))
        with pytest.raises(UserError, match="its digest does not match"):
            open_corpus(folder, verify=True)
        (folder / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))
        with pytest.raises(UserError, match="has format version 99"):
            open_corpus(folder)
        (folder / MANIFEST).write_text("{}")
        with pytest.raises(UserError, match="does not hold a CorpusManifest"):
            open_corpus(folder)
        (folder / MANIFEST).unlink()
        with pytest.raises(UserError, match="holds no finished corpus"):
            open_corpus(folder)

    def test_an_unknown_domain_is_named(self, small_corpus: Corpus) -> None:
        with pytest.raises(UserError, match="no domain 'middle'; it has left, right"):
            small_corpus.train_stream("middle")
