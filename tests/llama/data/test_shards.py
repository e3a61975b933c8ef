from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama.data.shards import HEADER_BYTES, ShardWriter, open_shard, read_header, verify_shard
from llama.errors import UserError

TOKENIZER_SHA256 = "ab" * 32


def write_shard(path: Path, *arrays: np.ndarray, vocab_size: int = 512) -> ShardWriter:
    with ShardWriter(path, vocab_size=vocab_size, tokenizer_sha256=TOKENIZER_SHA256) as shard:
        for array in arrays:
            shard.append(array)
    return shard


@pytest.mark.parametrize(("vocab_size", "dtype"), [(512, "<u2"), (1 << 16, "<u2"), ((1 << 16) + 1, "<u4")])
def test_tokens_come_back_in_the_narrowest_type_that_holds_the_vocabulary(
    tmp_path: Path, vocab_size: int, dtype: str
) -> None:
    ids = np.random.default_rng(0).integers(0, vocab_size, 1000)
    ids[0], ids[-1] = 0, vocab_size - 1
    path = tmp_path / "a.bin"
    written = write_shard(path, ids[:300], ids[300:300], ids[300:].astype(np.int32), vocab_size=vocab_size)
    tokens = open_shard(path)
    assert tokens.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(tokens, ids)
    assert not tokens.flags.writeable
    header = verify_shard(path)
    assert header == written.header
    assert (header.tokens, header.vocab_size, header.tokenizer_sha256) == (1000, vocab_size, TOKENIZER_SHA256)


def test_an_empty_shard_opens(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin")
    assert len(open_shard(tmp_path / "a.bin")) == 0
    verify_shard(tmp_path / "a.bin")


@pytest.mark.parametrize("wrong", [-1, 512, 70_000])
def test_ids_beyond_the_vocabulary_are_refused_and_leave_no_file(tmp_path: Path, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary of 512"):
        write_shard(tmp_path / "a.bin", np.array([1, 2, 3]), np.array([4, wrong, 5]))
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(position=st.integers(0, HEADER_BYTES - 1), flip=st.integers(1, 255))
def test_any_changed_header_byte_is_noticed(tmp_path: Path, position: int, flip: int) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(100))
    data = bytearray(path.read_bytes())
    data[position] ^= flip
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.bin"):
        open_shard(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, HEADER_BYTES + 199))
def test_a_shard_cut_short_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(100))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"a\.bin"):
        open_shard(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.bin (is not a token shard|is cut short)"):
        open_shard(path)


def test_a_longer_file_and_a_changed_payload_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(100))
    data = path.read_bytes()
    path.write_bytes(data + b"\0")
    with pytest.raises(UserError, match="holds 297 bytes where its 100 tokens take 296"):
        read_header(path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    read_header(path)
    for read in (verify_shard, open_shard):
        with pytest.raises(UserError, match="do not match their SHA-256"):
            read(path)


def test_a_shard_is_read_once_while_it_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(100))
    reads: list[int] = []
    hashing = hashlib.sha256

    def counted() -> Any:
        reads.append(1)
        return hashing()

    monkeypatch.setattr(hashlib, "sha256", counted)
    for _ in range(3):
        open_shard(path)
        verify_shard(path)
    assert len(reads) == 6  # it has only just been written
    monkeypatch.setattr("llama.data.shards._SETTLED_SECONDS", 0.05)
    time.sleep(0.1)
    for _ in range(3):
        open_shard(path)
        verify_shard(path)
    assert len(reads) == 7
    times = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy or a restored backup has it
    with pytest.raises(UserError, match="do not match their SHA-256"):
        open_shard(path)


def test_an_absent_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.bin cannot be read: No such file"):
        open_shard(tmp_path / "absent.bin")
