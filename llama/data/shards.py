"""Token shards: one file of token ids behind a checked header, memory-mapped by every run that reads it.

    bytes   0..7    magic
            8..11   format version
           12..15   bytes a token: 2 (uint16) or 4 (uint32)
           16..23   tokens
           24..27   vocabulary size: every token is below it
           28..31   CRC-32 of the header with this field zero
           32..63   SHA-256 of the tokenizer's model file
           64..95   SHA-256 of the payload
           96..     the tokens, little-endian

`read_header` costs microseconds: the header is checked against itself and against the file's size. `open_shard` gives out
no token before the whole payload was held against its SHA-256, by the process that reads it: a run never trains on a byte
that changed between the build and the opening. What changes under an open map is not seen. The payload is read at about
1.6 GB/s a core, and once a process while the file stays as it is, which its times show: a change within a second of the last
one may not, nor where a file server's clock lags behind by more than that second.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama.errors import UserError

MAGIC = b"isotoken"
FORMAT_VERSION = 1
HEADER_BYTES = 96

_LAYOUT = struct.Struct("<8sIIQII32s32s")
_DTYPES: dict[int, np.dtype[np.uint16] | np.dtype[np.uint32]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_HASH_CHUNK_BYTES = 1 << 24
_SETTLED_SECONDS = 1.0

Tokens = NDArray[np.uint16] | NDArray[np.uint32]


class ShardHeader(NamedTuple):
    """What a shard says of itself. Digests are hexadecimal."""

    token_bytes: int
    """Bytes that one token takes in the file: 2 or 4."""
    tokens: int
    vocab_size: int
    tokenizer_sha256: str
    payload_sha256: str

    def pack(self) -> bytes:
        digests = bytes.fromhex(self.tokenizer_sha256), bytes.fromhex(self.payload_sha256)
        fields = [MAGIC, FORMAT_VERSION, self.token_bytes, self.tokens, self.vocab_size, 0, *digests]
        fields[5] = zlib.crc32(_LAYOUT.pack(*fields))
        return _LAYOUT.pack(*fields)


class ShardWriter:
    """Writes one shard: `with ShardWriter(...) as shard: shard.append(ids)`.

    The file appears under its name, complete and on the disk, when the block ends; after an exception there is none.
    Vocabularies up to 65,536 are stored as uint16, larger ones as uint32.
    """

    def __init__(self, path: Path, *, vocab_size: int, tokenizer_sha256: str) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._vocab_size = vocab_size
        self._tokenizer_sha256 = tokenizer_sha256
        self._dtype = _DTYPES[2 if vocab_size <= 1 << 16 else 4]
        self._sha256 = hashlib.sha256()
        self._file: BinaryIO
        self.tokens = 0
        self.header: ShardHeader
        """Set when the block has ended."""

    def __enter__(self) -> ShardWriter:
        self._file = open(self._temporary, "wb")
        self._file.write(bytes(HEADER_BYTES))
        return self

    def append(self, ids: NDArray[np.integer]) -> None:
        """Append token ids, `[n]` of any integer type.

        Raises:
            ValueError: an id is negative or beyond the vocabulary.
        """
        if ids.size == 0:
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self._vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(f"{self._path}: token id {wrong} is outside the vocabulary of {self._vocab_size}")
        payload = ids.astype(self._dtype).tobytes()
        self._sha256.update(payload)
        self._file.write(payload)
        self.tokens += ids.size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.header = ShardHeader(
                    token_bytes=self._dtype.itemsize,
                    tokens=self.tokens,
                    vocab_size=self._vocab_size,
                    tokenizer_sha256=self._tokenizer_sha256,
                    payload_sha256=self._sha256.hexdigest(),
                )
                self._file.seek(0)
                self._file.write(self.header.pack())
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def read_header(path: Path) -> ShardHeader:
    """The shard's header, checked against itself and against the file's size.

    Raises:
        UserError: the file is absent, no shard, of another version, damaged, or cut short.
    """
    with _opened(path) as file:
        return _read_header(file, path)


def verify_shard(path: Path) -> ShardHeader:
    """Read the whole shard and hold it against the SHA-256 in its header.

    Raises:
        UserError: as `read_header`, or the payload is not the one that was written.
    """
    with _opened(path) as file:
        header = _read_header(file, path)
        _verify_payload(file, path, header)
        return header


def open_shard(path: Path) -> Tokens:
    """The shard's tokens, `[n]`, verified, memory-mapped and read-only.

    Raises:
        UserError: as `verify_shard`.
    """
    with _opened(path) as file:
        header = _read_header(file, path)
        _verify_payload(file, path, header)
        dtype = _DTYPES[header.token_bytes]
        if header.tokens == 0:  # an empty file range cannot be mapped
            return np.empty(0, dtype=dtype)
        mapped = np.memmap(file, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(header.tokens,))
        # A plain view slices several times faster than the memmap class, and keeps the mapping alive.
        return mapped.view(np.ndarray)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"token shard {path} cannot be read: {error.strerror}; delete its folder and build it again"
        ) from None


def _read_header(file: BinaryIO, path: Path) -> ShardHeader:
    raw = file.read(HEADER_BYTES)
    file_bytes = os.fstat(file.fileno()).st_size
    if raw[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path} is not a token shard: it does not start with {MAGIC.decode()!r}")
    if len(raw) < HEADER_BYTES:
        raise UserError(f"token shard {path} is cut short inside its header; delete its folder and build it again")
    _, version, token_bytes, tokens, vocab_size, crc, tokenizer_sha256, payload_sha256 = _LAYOUT.unpack(raw)
    if version != FORMAT_VERSION:
        raise UserError(f"token shard {path} has format version {version}; this program reads {FORMAT_VERSION}")
    if zlib.crc32(raw[:28] + bytes(4) + raw[32:]) != crc or token_bytes not in _DTYPES:
        raise UserError(f"token shard {path} has a damaged header; delete its folder and build it again")
    expected_bytes = HEADER_BYTES + tokens * token_bytes
    if file_bytes != expected_bytes:
        raise UserError(
            f"token shard {path} holds {file_bytes:,} bytes where its {tokens:,} tokens take {expected_bytes:,}; "
            "build the corpus again"
        )
    return ShardHeader(token_bytes, tokens, vocab_size, tokenizer_sha256.hex(), payload_sha256.hex())


_verified: set[tuple[int, ...]] = set()
"""Files that this process has read and found whole, by what `_identity` said of them."""


def _verify_payload(file: BinaryIO, path: Path, header: ShardHeader) -> None:
    before = _identity(file)
    if before in _verified:
        return
    sha256 = hashlib.sha256()
    file.seek(HEADER_BYTES)
    while chunk := file.read(_HASH_CHUNK_BYTES):
        sha256.update(chunk)
    if sha256.hexdigest() != header.payload_sha256:
        raise UserError(
            f"token shard {path} is damaged: its tokens do not match their SHA-256; delete its folder and build it again"
        )
    # File times are coarse: a file that has only just changed may change again and show the same ones.
    if _identity(file) == before and time.time_ns() - before[-1] > _SETTLED_SECONDS * 1e9:
        _verified.add(before)


def _identity(file: BinaryIO) -> tuple[int, ...]:
    """Which file it is, and when anything of it was last changed, which nobody can set back."""
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns
