from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llama.data.document import EMPTY, NOT_TEXT, NOT_UTF8
from llama.data.sources import CorpusSpec, DomainSpec, cut_text, open_source
from llama.errors import UserError

LINES = [{"id": "x", "text": "first"}, {"text": "second é"}, {"text": "third", "other": 1}]
JSONL = "".join(json.dumps(line) + "\n" for line in LINES).encode()


def read(base: Path, *files: str, **fields: Any) -> tuple[list[tuple[str, str]], Counter[str]]:
    source = open_source("d", DomainSpec(weight=1.0, files=list(files), **fields), base=base)
    skipped: Counter[str] = Counter()
    return [(document.id, document.text) for document in source.read_documents(skipped)], skipped


def write_all_formats(folder: Path) -> None:
    (folder / "plain.jsonl").write_bytes(JSONL)
    (folder / "zipped.jsonl.gz").write_bytes(gzip.compress(JSONL))
    (folder / "packed.jsonl.zst").write_bytes(zstandard.compress(JSONL))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(LINES), folder / "table.parquet", row_group_size=2)


@pytest.mark.parametrize("name", ["plain.jsonl", "zipped.jsonl.gz", "packed.jsonl.zst"])
def test_json_lines_in_every_packing(tmp_path: Path, name: str) -> None:
    write_all_formats(tmp_path)
    documents, skipped = read(tmp_path, name)
    assert documents == [("x", "first"), ("2", "second é"), ("3", "third")]
    assert not skipped


def test_parquet(tmp_path: Path) -> None:
    write_all_formats(tmp_path)
    documents, skipped = read(tmp_path, "table.parquet")
    assert [text for _, text in documents] == ["first", "second é", "third"]
    assert not skipped


def test_zstd_frames_one_after_another_and_long_lines(tmp_path: Path) -> None:
    long = json.dumps({"text": "y" * 3_000_000}).encode() + b"\n"
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(JSONL) + zstandard.compress(long + JSONL[:-1]))
    documents, _ = read(tmp_path, "a.jsonl.zst")
    assert [len(text) for _, text in documents] == [5, 8, 5, 3_000_000, 5, 8, 5]


def test_text_files_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b/two.txt", "b/one.txt", "b/deep/three.txt", "b/.hidden/no.txt", "b/notes.md", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"in {name}\r\n", newline="")
    assert [name for name, _ in read(tmp_path, "b")[0]] == ["b/deep/three.txt", "b/one.txt", "b/two.txt"]
    assert [name for name, _ in read(tmp_path, "b/*.txt", "b/one.txt", "c.txt")[0]] == [
        "b/one.txt",
        "b/two.txt",
        "c.txt",
    ]
    assert [name for name, _ in read(tmp_path, "**/t*.txt")[0]] == ["b/deep/three.txt", "b/two.txt"]
    assert [name for name, _ in read(tmp_path / "b", str(tmp_path / "c.txt"))[0]] == ["../c.txt"]
    assert read(tmp_path, "c.txt")[0] == [("c.txt", "in c.txt\r\n")]


def test_what_is_not_text_is_counted_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b" \n")
    (tmp_path / "signed.txt").write_bytes(b"\xef\xbb\xbfsigned")
    lines = [b'{"text": "caf\xe9"}', b'{"text": "\\ud800"}', b'{"text": null}', b'{"text": 3}', b'{"text": ""}', b""]
    (tmp_path / "z.jsonl").write_bytes(b"\xef\xbb\xbf" + JSONL + b"\n".join(lines))
    documents, skipped = read(tmp_path, ".")
    assert [text for _, text in documents] == ["signed", "first", "second é", "third"]
    assert skipped == {NOT_UTF8: 3, EMPTY: 2, NOT_TEXT: 2}


@pytest.mark.parametrize("name", ["plain.jsonl", "zipped.jsonl.gz", "packed.jsonl.zst", "table.parquet"])
def test_a_missing_text_field_is_named_with_the_fields_there_are(tmp_path: Path, name: str) -> None:
    write_all_formats(tmp_path)
    with pytest.raises(UserError, match=rf"{name}.* has no .*'content'; its (fields|columns) are: id, text"):
        read(tmp_path, name, text_field="content")


@pytest.mark.parametrize("name", ["zipped.jsonl.gz", "packed.jsonl.zst", "table.parquet"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.95])
def test_files_cut_short_are_refused(tmp_path: Path, name: str, keep: float) -> None:
    write_all_formats(tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=name):
        read(tmp_path, name)


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=60), suffix=st.sampled_from([".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"]))
@example(data=b'{"text": ' + b"[" * 100_000, suffix=".jsonl")
@example(data=b'{"text": ' + b"9" * 5_000 + b"}", suffix=".jsonl")
@example(data=b"[1]\n", suffix=".jsonl")
@example(data=b"\x1f\x8b\x08", suffix=".jsonl.gz")
@example(data=b"\x28\xb5\x2f\xfd", suffix=".jsonl.zst")
@example(data=b"PAR1PAR1PAR1", suffix=".parquet")
def test_foreign_bytes_give_documents_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("foreign")
    (folder / f"f{suffix}").write_bytes(data)
    try:
        read(folder, f"f{suffix}")
    except UserError as error:
        assert f"f{suffix}" in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing/*.txt", "domains.d.files: 'nothing/\\*.txt' matches no file"),
        ("empty", "'empty' matches no file of .txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet"),
        ("notes.md", "notes.md is not of .txt"),
    ],
)
def test_patterns_that_give_nothing_are_named(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UserError, match=message):
        read(tmp_path, pattern)


def test_parts_follow_names_and_contents(tmp_path: Path) -> None:
    def parts() -> dict[str, str]:
        return open_source("d", DomainSpec(weight=1.0, files=["."]), base=tmp_path).parts

    write_all_formats(tmp_path)
    before = parts()
    assert list(before) == ["packed.jsonl.zst", "plain.jsonl", "table.parquet", "zipped.jsonl.gz"]
    (tmp_path / "plain.jsonl").write_bytes(JSONL + b"\n")
    assert {name for name, sha256 in parts().items() if before[name] != sha256} == {"plain.jsonl"}


@settings(deadline=None)
@given(st.text(st.sampled_from("aé😀\n\u2581\r"), max_size=400), st.integers(4, 50))
def test_cut_texts_join_to_the_whole_and_fit(text: str, limit_bytes: int) -> None:
    parts = list(cut_text(text, limit_bytes))
    assert "".join(parts) == text
    assert all(len(part.encode()) <= limit_bytes for part in parts)
    lines = [line for line in text.split("\n") if len(line.encode()) >= limit_bytes]
    if not lines:
        assert all(part.endswith("\n") for part in parts[:-1])


def test_long_documents_are_cut_where_asked(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("".join(f"line {n}\n" for n in range(100)))
    documents, _ = read(tmp_path, "book.txt", max_document_bytes=256)
    assert [name for name, _ in documents] == ["book.txt#1", "book.txt#2", "book.txt#3", "book.txt#4"]
    assert "".join(text for _, text in documents) == (tmp_path / "book.txt").read_text()


DATASET = DomainSpec(weight=1.0, dataset="a/b", config="c", max_documents=2, revision="r")


def test_a_dataset_without_the_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"domains\.d: dataset 'a/b' needs the hf extra.*pip install 'isoloss\[hf\]'"):
        list(open_source("d", DATASET, base=tmp_path).read_documents(Counter()))


def test_a_dataset_is_streamed_and_stops_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return iter([{"text": "one"}, {"text": None}, {"text": "beyond"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    skipped: Counter[str] = Counter()
    source = open_source("d", DATASET, base=tmp_path)
    assert [document.text for document in source.read_documents(skipped)] == ["one"]
    assert skipped == {NOT_TEXT: 1}
    assert asked == [(("a/b", "c"), {"split": "train", "revision": "r", "streaming": True})]
    assert source.origin == "Hugging Face dataset a/b (c, train, revision r)"


def test_a_dataset_that_cannot_be_opened_or_lacks_the_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("no such split")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(UserError, match="dataset 'a/b' cannot be read: no such split"):
        list(open_source("d", DATASET, base=tmp_path).read_documents(Counter()))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda *a, **k: iter([{"body": "x"}])))
    with pytest.raises(UserError, match="no field 'text'; its fields are: body"):
        list(open_source("d", DATASET, base=tmp_path).read_documents(Counter()))


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({}, "exactly one of stdlib, files and dataset; this one has none"),
        ({"stdlib": "code", "files": ["a"]}, "this one has \\['stdlib', 'files'\\]"),
        ({"stdlib": "jokes"}, "'code' or 'prose'"),
        ({"files": []}, "at least 1"),
        ({"files": ["a"], "split": "train"}, "split go with dataset, not with files"),
        ({"stdlib": "code", "text_field": "t"}, "text_field goes with files or dataset"),
        ({"stdlib": "code", "weight": 0.0}, "greater than 0"),
        ({"stdlib": "code", "colour": "red"}, "Extra inputs"),
    ],
)
def test_impossible_domains_are_refused(domain: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CorpusSpec.model_validate({"domains": {"d": {"weight": 1.0, **domain}}})


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "-x", "é"])
def test_domain_names_must_be_file_names(name: str) -> None:
    with pytest.raises(ValidationError, match="domain name"):
        CorpusSpec.model_validate({"domains": {name: {"weight": 1, "stdlib": "code"}}})
