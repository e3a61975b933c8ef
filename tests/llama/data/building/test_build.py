from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama.data.building import build as build_module
from llama.data.building import stages
from llama.data.building.build import build_corpus
from llama.data.building.progress import Progress
from llama.data.corpus import Corpus, open_corpus
from llama.data.sources import CorpusSpec, DomainSpec, TokenizerSpec
from llama.data.tokenizer import sample_digest
from llama.errors import UserError

from ..conftest import invented_text, small_spec, write_jsonl


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


def held_out(text: str, fraction: float = 0.2) -> bool:
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest()[:8], "little") < fraction * 2**64


TEXTS = [invented_text(n, 50) for n in range(100)]
MORE = [invented_text(n, 50) for n in range(1000, 1100)]


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
    monkeypatch.setattr(build_module, "Build", None)
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


@pytest.mark.parametrize(
    ("texts", "fields", "message"),
    [
        (["", " "], {}, "domain 'd' .1 file: d.jsonl. has no usable document: it has 2 empty"),
        ([TEXTS[0]], {}, "domain 'd' is too small: of its 1 documents .* were held out"),
        (
            [f"{n}: " + "again and " * 50 for n in range(50)],
            {},
            "each of its .* training documents is a near-duplicate",
        ),
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


def test_progress_is_told_by_stage_up_to_the_end(tmp_path: Path) -> None:
    lines: list[str] = []
    told: list[Progress] = []
    spec = one_domain(tmp_path, TEXTS)
    corpus = build_corpus(spec, tmp_path / "storage", base=tmp_path, report=lines.append, watch=told.append)
    stages = {progress.stage: [p for p in told if p.stage == progress.stage] for progress in told}
    assert list(stages) == ["reading", "screening", "encoding"]
    for progress in stages.values():
        shares = [p.share for p in progress]
        assert (shares[0], shares[-1], shares) == (0, 1, sorted(shares))
        assert progress[-1].is_over
        assert progress[-1].remaining_seconds == 0
    record = corpus.domains["d"]
    assert stages["reading"][-1].bytes == record.train_bytes + record.validation_bytes
    assert lines == ["d: 100 documents"]


def test_without_a_watcher_progress_comes_in_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    build_corpus(one_domain(tmp_path, TEXTS), tmp_path / "storage", base=tmp_path, report=lines.append)
    assert len([line for line in lines if re.search(r"\d MB in .* s \([\d.,]+ MB/s\)$", line)]) == 3


@pytest.mark.parametrize("part_bytes", [1, 700, 5000])
def test_parts_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int) -> None:
    for name, texts in {"a": TEXTS[:50], "b": TEXTS[40:], "c": [*TEXTS[:3], "  ", *MORE]}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", texts)
    spec = small_spec(
        x=DomainSpec(weight=1.0, files=["a.jsonl", "b.jsonl"]), y=DomainSpec(weight=1.0, files=["c.jsonl", "."])
    )
    whole = build_corpus(spec, tmp_path / "whole", base=tmp_path, report=silent)
    for module in ("texts", "reading", "stages"):
        monkeypatch.setattr(f"llama.data.building.{module}.PART_BYTES", part_bytes)
    cut = build_corpus(spec, tmp_path / "cut", base=tmp_path, report=silent)
    assert cut.manifest == whole.manifest


class TestNearDuplicates:
    """Training text that repeats held-out text is left out, and what it still shares is counted."""

    def test_reworded_copies_of_held_out_documents_are_left_out(self, tmp_path: Path) -> None:
        longer = [invented_text(n, 200) for n in range(100)]
        changed = [" -- ".join(text.upper().split(" ")) for text in longer]
        copies = [copy for text, copy in zip(longer, changed, strict=True) if held_out(text) and not held_out(copy)]
        harmless = [
            copy for text, copy in zip(longer, changed, strict=True) if not held_out(text) and not held_out(copy)
        ][:5]
        corpus = build(tmp_path, one_domain(tmp_path, [*longer, *copies, *harmless]))
        train = documents(corpus, corpus.train_stream("d"))
        record = corpus.domains["d"]
        assert copies
        assert not set(copies) & set(train)
        assert set(train) >= {text for text in longer if not held_out(text)}
        assert record.near_duplicates == len(copies)
        assert record.train_documents == len(train)

    def test_what_is_still_shared_is_counted(self, tmp_path: Path) -> None:
        words = [f"w{n}" for n in range(20_000)]
        texts = [" ".join(words[n * 200 : n * 200 + 200]) for n in range(100)]
        in_bytes = {"tokenizer": TokenizerSpec(vocab_size=256)}
        record = build(tmp_path, one_domain(tmp_path, texts).model_copy(update=in_bytes)).domains["d"]
        val = [text for text in texts if held_out(text)]
        assert (record.held_out_grams, record.held_out_grams_in_training) == (188 * len(val), 0)
        quotation = " ".join(val[0].split()[:23])
        quoting = next(text for n in range(9) if not held_out(text := f"{quotation} {n} " + "other " * 100))
        record = build(tmp_path, one_domain(tmp_path, [*texts, quoting]).model_copy(update=in_bytes)).domains["d"]
        assert record.near_duplicates == 0
        assert (record.held_out_grams, record.held_out_grams_in_training) == (188 * len(val), 11)


def test_the_tokenizers_sample_is_named(tmp_path: Path) -> None:
    near = next(text for text in TEXTS if held_out(text)).upper()
    spec = one_domain(tmp_path, [*TEXTS, *([near] if not held_out(near) else [])]).model_copy(
        update={"tokenizer": TokenizerSpec(vocab_size=300, sample_bytes=10_000_000)}
    )
    by_rank = sorted(
        TEXTS, key=lambda text: int.from_bytes(blake2b(text.encode(), digest_size=16).digest()[8:], "little")
    )
    manifest = build(tmp_path, spec).manifest
    assert manifest.tokenizer_sample_sha256 == sample_digest(text for text in by_rank if not held_out(text))
    assert manifest.domains["d"].tokenizer_sample_bytes == manifest.domains["d"].train_bytes


class TestGoingOn:
    """A build that was stopped, however, goes on where it was and gives the same bytes."""

    @pytest.fixture
    def spec(self, tmp_path: Path) -> CorpusSpec:
        write_jsonl(tmp_path / "a.jsonl", TEXTS[:60])
        write_jsonl(tmp_path / "b.jsonl", TEXTS[50:])
        return small_spec(**{name: DomainSpec(weight=1.0, files=[f"{name}.jsonl"]) for name in "ab"})

    @pytest.fixture
    def whole(self, tmp_path: Path, spec: CorpusSpec) -> Corpus:
        return build_corpus(spec, tmp_path / "whole", base=tmp_path, report=silent)

    def fail_at_the_end(self, tmp_path: Path, spec: CorpusSpec, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The folder of parts that such a build leaves."""
        with monkeypatch.context() as patch:
            patch.setattr(stages, "domain_manifest", lambda *args, **named: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                build(tmp_path, spec)
        (left,) = visible(tmp_path / "storage" / "corpora")
        with pytest.raises(UserError, match="holds no finished corpus"):
            open_corpus(left)
        return left / "work"

    def test_what_is_finished_is_not_done_again(
        self, tmp_path: Path, spec: CorpusSpec, whole: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.fail_at_the_end(tmp_path, spec, monkeypatch)
        for function in (
            "reading._read",
            "learning._learn",
            "screening._screen",
            "screening._tally",
            "encoding._encode",
        ):
            monkeypatch.setattr(f"llama.data.building.{function}", None)
        told: list[Progress] = []
        corpus = build_corpus(spec, tmp_path / "storage", base=tmp_path, report=silent, watch=told.append)
        assert corpus.manifest == whole.manifest
        assert {p.fresh_bytes for p in told} == {0}
        assert visible(corpus.folder.parent) == [corpus.folder]
        assert sorted(path.name for path in corpus.folder.iterdir()) == sorted(p.name for p in whole.folder.iterdir())

    @pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
    def test_damaged_parts_are_done_again(
        self, tmp_path: Path, spec: CorpusSpec, whole: Corpus, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        work = self.fail_at_the_end(tmp_path, spec, monkeypatch)
        files = sorted(work.iterdir())
        kinds = {".text", ".documents", ".tokens", ".places", ".json", ".grams", ".model"}
        assert {path.suffix for path in files} == kinds
        harm: dict[str, Callable[[Path, bytes], object]] = {
            "changed": lambda path, data: path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]),
            "cut": lambda path, data: path.write_bytes(data[:-1]),
            "gone": lambda path, data: path.unlink(),
        }
        for number, path in enumerate(files):
            if path.stat().st_size > 3:
                harm[damage](path, path.read_bytes())
            if number % 4 == 3:  # neighbours are damaged together, and a mark with its files
                work = self.fail_at_the_end(tmp_path, spec, monkeypatch)
        assert build(tmp_path, spec).manifest == whole.manifest

    def test_killed_again_and_again(self, tmp_path: Path, spec: CorpusSpec, whole: Corpus) -> None:
        for marks in (0, 1, 2):  # so many more pieces are finished each time
            killed = start_build(tmp_path, spec, "kill", marks)
            killed.communicate()
            assert killed.returncode == -signal.SIGKILL
        work = next((tmp_path / "storage" / "corpora").glob(".*.partial/work"))
        assert len(list(work.glob("*.json"))) == 3
        assert build(tmp_path, spec).manifest == whole.manifest

    def test_a_full_disk_is_said_and_gone_on_from(self, tmp_path: Path, spec: CorpusSpec, whole: Corpus) -> None:
        full = start_build(tmp_path, spec, "fill", 4000)
        said, _ = full.communicate()
        assert "cannot be written in" in said
        assert "File too large; what is done of it stays, and the same command goes on from there" in said
        assert build(tmp_path, spec).manifest == whole.manifest

    def test_two_builds_at_once_give_one_corpus(self, tmp_path: Path, spec: CorpusSpec, whole: Corpus) -> None:
        both = [start_build(tmp_path, spec) for _ in range(2)]
        assert [process.communicate()[0] for process in both] == [whole.digest + "\n"] * 2
        assert len(visible(tmp_path / "storage" / "corpora")) == 1


def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    spec = one_domain(tmp_path, TEXTS)

    def late(do: Callable[[Any], Any], works: Any) -> Any:
        write_jsonl(tmp_path / "d.jsonl", TEXTS[1:])
        yield 0, do(works[0])

    with pytest.raises(UserError, match=r"domain 'd': d\.jsonl has changed since the build began"):
        build_corpus(spec, tmp_path / "storage", base=tmp_path, report=silent, execute=late)
    assert visible(tmp_path / "storage" / "corpora") == []


BUILD_SCRIPT = """
import os, resource, signal, sys, pathlib
from llama.data.building import build, marks
from llama.data.sources import CorpusSpec
from llama.errors import UserError
base, spec, how, number = pathlib.Path(sys.argv[1]), CorpusSpec.model_validate_json(sys.argv[2]), sys.argv[3], int(sys.argv[4])
left, write_record = number, marks.write_record
def write_some(*arguments, **named):
    global left
    left -= 1
    os.kill(os.getpid(), signal.SIGKILL) if left < 0 else write_record(*arguments, **named)
if how == "kill":
    marks.write_record = write_some
if how == "fill":
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
try:
    print(build.build_corpus(spec, base / "storage", base=base, report=lambda line: None).digest)
except UserError as error:
    print(error)
"""


def start_build(folder: Path, spec: CorpusSpec, how: str = "", number: int = 0) -> subprocess.Popen[str]:
    arguments = [str(folder), spec.model_dump_json(), how, str(number)]
    return subprocess.Popen([sys.executable, "-c", BUILD_SCRIPT, *arguments], stdout=subprocess.PIPE, text=True)
