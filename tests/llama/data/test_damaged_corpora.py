"""A corpus whose files were changed after the build: a run gets the tokens that were built, or a message. Never others."""

from __future__ import annotations

import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llama.config import DataConfig
from llama.data.corpus import MANIFEST, TOKENIZER, Corpus, open_corpus
from llama.data.run_data import open_run_data
from llama.data.shards import HEADER_BYTES, ShardWriter
from llama.errors import UserError
from tests.llama.shapes import tiny_model, tiny_recipe, tiny_run

WEIGHTS = {"left": 0.7, "right": 0.3}
FILES = ["left.train.bin", "left.val.bin", "right.train.bin", "right.val.bin", TOKENIZER, MANIFEST]


@pytest.fixture(autouse=True)
def _nothing_unpickles(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpickle(*args: object, **kwargs: object) -> object:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, unpickle)


def seen_by_a_run(folder: Path, digest: str) -> list[bytes]:
    """All that a run takes from a corpus: batches, held-out windows and the bytes that its tokens stand for."""
    config = tiny_run(
        model=tiny_model(vocab_size=1_000, context_length=16),
        data=DataConfig(corpus_digest=digest, weights=WEIGHTS, validation_tokens=640),
        recipe=tiny_recipe(batch_sequences=64),
        tokens=64 * 16 * 8,
    )
    data = open_run_data(config, folder)
    batches = [data.batch(step) for step in range(8)]
    held_out = [batch for _, windows in data.held_out() for batch in windows]
    return [array.tobytes() for array in (*batches, *held_out, open_corpus(folder).token_bytes)]


def damaged(corpus: Corpus, folder: Path, name: str, data: bytes) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(corpus.folder, folder)
    (folder / name).write_bytes(data)
    return folder


def check(corpus: Corpus, folder: Path, name: str, data: bytes) -> bool:
    """Whether the damage was refused; else the run must see what it always saw."""
    copy = damaged(corpus, folder, name, data)
    try:
        seen = seen_by_a_run(copy, corpus.digest)
    except UserError as error:
        message = str(error)
    else:
        assert seen == seen_by_a_run(corpus.folder, corpus.digest)
        return False
    assert str(folder) in message or message == "another corpus"
    return True


FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@example("left.train.bin", 0.5, 1)
@example("right.val.bin", 0.999, 128)
@example(TOKENIZER, 0.5, 128)
def test_any_byte_flipped(small_corpus: Corpus, tmp_path: Path, name: str, place: float, flip: int) -> None:
    data = bytearray((small_corpus.folder / name).read_bytes())
    data[int(place * len(data))] ^= flip
    refused = check(small_corpus, tmp_path / "copy", name, bytes(data))
    assert refused or name == MANIFEST  # which also says how many documents and bytes there were


@FUZZ
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True))
@example(TOKENIZER, 0.0)
@example(MANIFEST, 0.0)
def test_cut_short_anywhere(small_corpus: Corpus, tmp_path: Path, name: str, place: float) -> None:
    data = (small_corpus.folder / name).read_bytes()
    cut = data[: int(place * len(data))]
    refused = check(small_corpus, tmp_path / "copy", name, cut)
    assert refused or cut.rstrip() == data.rstrip()


@FUZZ
@given(st.sampled_from(FILES), st.binary(min_size=1, max_size=300))
def test_extended_or_foreign(small_corpus: Corpus, tmp_path: Path, name: str, more: bytes) -> None:
    data = (small_corpus.folder / name).read_bytes()
    assert check(small_corpus, tmp_path / "copy", name, data + more) or not more.strip()
    assert check(small_corpus, tmp_path / "copy", name, more)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES[:4]), st.integers(0, 95), st.binary(min_size=1, max_size=8))
def test_a_header_that_agrees_with_itself_is_not_enough(
    small_corpus: Corpus, tmp_path: Path, name: str, place: int, field: bytes
) -> None:
    original = (small_corpus.folder / name).read_bytes()
    data = bytearray(original)
    data[place : place + len(field)] = field
    data[28:32] = bytes(4)
    data[28:32] = struct.pack("<I", zlib.crc32(data[:HEADER_BYTES]))
    assert check(small_corpus, tmp_path / "copy", name, bytes(data)) or data == original


@pytest.mark.parametrize("change", ["tokens", "tokenizer"])
def test_a_whole_shard_of_another_corpus_is_refused(small_corpus: Corpus, tmp_path: Path, change: str) -> None:
    tokens = np.array(small_corpus.train_stream("left"))
    sha256 = small_corpus.manifest.tokenizer_sha256
    if change == "tokens":
        tokens[0] ^= 1
    else:
        sha256 = sha256[::-1]
    with ShardWriter(tmp_path / "other.bin", vocab_size=small_corpus.vocab_size, tokenizer_sha256=sha256) as shard:
        shard.append(tokens)
    copy = damaged(small_corpus, tmp_path / "copy", "left.train.bin", (tmp_path / "other.bin").read_bytes())
    with pytest.raises(UserError, match=r"left\.train\.bin is not the shard that corpus\.json beside it names"):
        open_corpus(copy)


def test_shards_that_change_their_places_are_refused(small_corpus: Corpus, tmp_path: Path) -> None:
    left = (small_corpus.folder / "left.train.bin").read_bytes()
    copy = damaged(small_corpus, tmp_path / "copy", "right.train.bin", left)
    with pytest.raises(UserError, match=r"right\.train\.bin is not the shard that"):
        open_corpus(copy)


def test_a_manifest_of_other_shards_does_not_keep_its_digest(small_corpus: Corpus, tmp_path: Path) -> None:
    """Shards and manifest agree, and claim to be the corpus that a run names."""
    tokens = np.array(small_corpus.train_stream("left"))[::-1]
    sha256, vocab_size = small_corpus.manifest.tokenizer_sha256, small_corpus.vocab_size
    copy = damaged(small_corpus, tmp_path / "copy", MANIFEST, b"")
    with ShardWriter(copy / "left.train.bin", vocab_size=vocab_size, tokenizer_sha256=sha256) as shard:
        shard.append(tokens)
    text = (small_corpus.folder / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace(small_corpus.domains["left"].train_sha256, shard.header.payload_sha256))
    with pytest.raises(UserError, match="its digest does not match the shards it names"):
        open_corpus(copy)
