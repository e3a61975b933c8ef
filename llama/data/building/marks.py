"""Work whose result outlives the process: done once, marked with its files' checksums, and done again where they differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from llama.config import digest
from llama.data.files import sha256_of
from llama.errors import UserError
from llama.records import Record, read_record, write_record


class Finished(Record):
    """What a piece of work came to."""

    files: dict[str, str]
    """SHA-256 of every file that it wrote, by name in the mark's folder."""
    reused: bool = Field(default=False, exclude=True)
    """Nothing was done: an earlier process had done it."""


F = TypeVar("F", bound=Finished)


class _Mark(Record):
    inputs: str
    result: dict[str, Any]
    result_digest: str


def once(mark: Path, *, inputs: Any, kind: type[F], work: Callable[[], F]) -> F:
    """The result of `work`, which is not called where `mark` says that it was done from the same inputs.

    `inputs` is a JSON value. The files that the work wrote are read and held against their checksums, so what a lost write, a
    full disk or a stray hand has damaged is done again. Two processes may do the same work at once if it replaces its files
    whole: it gives the same bytes.
    """
    key = digest(inputs)
    found = _finished(mark, key, kind)
    if found is not None:
        return found.model_copy(update={"reused": True})
    done = work()
    result = done.model_dump(mode="json")
    write_record(mark, _Mark(inputs=key, result=result, result_digest=digest(result)), durable=False)
    return done


def _finished(mark: Path, key: str, kind: type[F]) -> F | None:
    try:
        found = read_record(mark, _Mark)
    except UserError:  # damaged
        return None
    if found is None or found.inputs != key or found.result_digest != digest(found.result):
        return None
    result = kind.model_validate(found.result)
    try:
        whole = all(sha256_of(mark.with_name(name)) == sha256 for name, sha256 in result.files.items())
    except OSError:
        return None
    return result if whole else None
