"""Documents in files: .txt, .jsonl (plain, .gz, .zst) and .parquet, found by path, folder or glob."""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from llama.data.document import EMPTY, NOT_TEXT, NOT_UTF8, Document
from llama.errors import UserError

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

_READ_BYTES = 1 << 20
_UTF8_SIGNATURE = b"\xef\xbb\xbf"


def find_files(patterns: Sequence[str], *, base: Path, where: str) -> dict[str, Path]:
    """Files that the patterns name, by their name relative to `base`, in order of that name.

    A folder stands for every file below it with one of `SUFFIXES`, hidden ones left out.

    Raises:
        UserError: a pattern matches nothing, or names a file of another kind; `where` says whose pattern it is.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = base / pattern
        if path.is_dir():
            below = (file for file in path.rglob("*") if not _hidden(file.relative_to(path)))
            matches = [file for file in below if file.name.endswith(SUFFIXES) and file.is_file()]
        elif path.is_file():
            matches = [path]
        else:
            matches = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207 - a pattern may be absolute
        if not matches:
            raise UserError(f"{where}: {pattern!r} matches no file of {', '.join(SUFFIXES)} (looked in {base})")
        for file in matches:
            if not file.name.endswith(SUFFIXES):
                raise UserError(f"{where}: {file} is not of {', '.join(SUFFIXES)}")
        found.update(matches)
    return dict(sorted((Path(os.path.relpath(path, base)).as_posix(), path) for path in found))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """Of a person's file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def read_file(name: str, path: Path, *, text_field: str, skipped: Counter[str]) -> Iterator[Document]:
    """The file's documents in order: a .txt is one document, any other file one a record.

    A document's id is its record's `id`, or else its number in the file. What cannot be used is counted in `skipped`.

    Raises:
        UserError: the file is damaged or cut short, a line is no JSON object, or a record lacks the text field.
    """
    try:
        if path.name.endswith(".txt"):
            yield from _read_text(name, path, skipped)
        elif path.name.endswith(".parquet"):
            yield from _usable(name, _parquet_records(path, text_field), path, text_field, skipped)
        else:
            yield from _usable(name, _json_records(path, skipped), path, text_field, skipped)
    except OSError as error:  # gzip's damage is an OSError without a strerror
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or cut short: {error}") from None


def _read_text(name: str, path: Path, skipped: Counter[str]) -> Iterator[Document]:
    try:
        text = path.read_bytes().removeprefix(_UTF8_SIGNATURE).decode("utf-8")
    except UnicodeDecodeError:
        skipped[NOT_UTF8] += 1
        return
    if text.strip():
        yield Document(id=name, text=text, origin=name)
    else:
        skipped[EMPTY] += 1


def _usable(
    name: str, records: Iterable[tuple[int, dict[str, Any]]], path: Path, text_field: str, skipped: Counter[str]
) -> Iterator[Document]:
    for number, record in records:
        if text_field not in record:
            fields = ", ".join(sorted(record)) or "none"
            raise UserError(f"{path} record {number} has no field {text_field!r}; its fields are: {fields}")
        text = record[text_field]
        if reason := why_unusable(text):
            skipped[reason] += 1
        else:
            yield Document(id=str(record.get("id", number)), text=text, origin=name)


def why_unusable(text: object) -> str | None:
    """The reason to skip a record's text, or None."""
    if not isinstance(text, str):
        return NOT_TEXT
    if not text.strip():
        return EMPTY
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates, which JSON can spell
        return NOT_UTF8
    return None


def _json_records(path: Path, skipped: Counter[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if number == 1:
            line = line.removeprefix(_UTF8_SIGNATURE)
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError:
            skipped[NOT_UTF8] += 1
            continue
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path} line {number} is not a JSON object but {type(record).__name__}")
        yield number, record


def _lines(path: Path) -> Iterator[bytes]:
    if path.name.endswith(".gz"):
        with gzip.open(path, "rb") as unzipped:
            yield from unzipped
    elif path.name.endswith(".zst"):
        with open(path, "rb") as compressed:
            yield from _split_lines(_decompressed(compressed))
    else:
        with open(path, "rb") as plain:
            yield from plain


def _decompressed(compressed: IO[bytes]) -> Iterator[bytes]:
    """A zstd file's contents, frame after frame. Unlike zstandard's stream reader this sees a frame that is cut short."""
    import zstandard

    pending = compressed.read(_READ_BYTES)
    while pending:
        frame = zstandard.ZstdDecompressor().decompressobj()
        while not frame.eof:
            if not pending:
                raise EOFError("the last zstd frame has no end")
            try:
                yield frame.decompress(pending)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
            pending = frame.unused_data if frame.eof else compressed.read(_READ_BYTES)
        pending = pending or compressed.read(_READ_BYTES)


def _split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    for chunk in chunks:
        head, newline, rest = chunk.partition(b"\n")
        parts.append(head)
        if not newline:
            continue
        yield b"".join(parts)
        *lines, last = rest.split(b"\n")
        yield from lines
        parts = [last]
    yield b"".join(parts)


def _parquet_records(path: Path, text_field: str) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            fields = file.schema_arrow.names
            if text_field not in fields:
                raise UserError(f"{path} has no column {text_field!r}; its columns are: {', '.join(fields)}")
            columns = [text_field, *(["id"] if "id" in fields and text_field != "id" else [])]
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a Parquet file, or a damaged one: {error}") from None
