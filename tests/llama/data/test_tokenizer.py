from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama.data.building.build import build_corpus
from llama.data.byte_tokenizer import ByteTokenizer
from llama.data.files import find_files, read_file
from llama.data.sentencepiece_tokenizer import (
    CHARACTER_COVERAGE,
    SentencePieceTokenizer,
    _frequent_characters,
    _training_lines,
)
from llama.data.shards import ShardWriter, open_shard
from llama.data.sources import DomainSpec, TokenizerSpec
from llama.data.tokenizer import SMALLEST_LEARNED_VOCAB, Tokenizer, sample_digest
from llama.errors import UserError

from .conftest import invented_text, small_spec, write_jsonl

SAMPLE = [invented_text(seed, 200) + "    indented = 42\n" for seed in range(20)]


TRAINED = SentencePieceTokenizer.learn(SAMPLE, vocab_size=320)
BYTES = Tokenizer.train(SAMPLE, vocab_size=256)

# Text that SentencePiece is known to change, beside what hypothesis invents.
AWKWARD = st.text(st.sampled_from("\u2581\u2585 \n\r\t\0a1é\u3000\ufeff<>/sx0A{}😀\u2028"), max_size=40)


@settings(deadline=None)
@given(st.text(max_size=200) | AWKWARD)
@example("\u2581")
@example(" \u2581 a\u2581\u2581b")
@example("<s> </s> <unk> <0x0A> <0x41>")
@example("a\0b\0")
@example("  leading, trailing  \n\n \t\r\n")
@example("")
@example("e\u0301 ﬁ Å ￾ \U0010ffff")
def test_any_text_round_trips_exactly_and_its_bytes_are_counted(text: str) -> None:
    for tokenizer in (TRAINED, BYTES):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())
        assert tokenizer.bos_id not in ids


def test_words_are_encoded_as_sentencepiece_encodes_the_whole_text() -> None:
    for text in ("".join(SAMPLE), "".join(SAMPLE).replace("\n", " "), "  a\n   b  \n\n  model  \t text\n"):
        whole = TRAINED._processor.encode(text, return_type="numpy")
        np.testing.assert_array_equal(TRAINED.encode(text), whole)


@pytest.mark.parametrize("limit", ["_SEGMENT_CHARACTERS", "_CACHE_CHARACTERS"])
def test_bounding_memory_changes_no_token(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    text = "".join(SAMPLE)
    whole = TRAINED.encode(text)
    monkeypatch.setattr(f"llama.data.sentencepiece_tokenizer.{limit}", 2 * max(map(len, SAMPLE)))
    tokenizer = SentencePieceTokenizer(TRAINED.model)
    for ids, sample in zip(tokenizer.encode_batch([text, "", *SAMPLE]), [text, "", *SAMPLE], strict=True):
        np.testing.assert_array_equal(ids, TRAINED.encode(sample))
    np.testing.assert_array_equal(tokenizer.encode(text), whole)


def test_long_runs_without_a_place_to_cut_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama.data.sentencepiece_tokenizer._SEGMENT_CHARACTERS", 5000)
    for text in ("é" * 33_333, " " * 33_333, "x" * 20_000 + " " + "y" * 20_000 + "\n" * 7000):
        assert TRAINED.decode(TRAINED.encode(text)) == text


def test_pieces_are_as_llamas() -> None:
    assert TRAINED.vocab_size == 320
    assert (TRAINED.bos_id, TRAINED.eos_id) == (1, 2)
    assert TRAINED.token_bytes[:3].tolist() == [0, 0, 0]
    assert TRAINED.token_bytes[3:259].tolist() == [1] * 256
    # Digits stay apart: a number takes a token a digit, after the space's own.
    assert len(TRAINED.encode("0123456789")) == 10
    assert len(TRAINED.encode(" model")) < len(" model")


def test_training_is_deterministic_and_saved_models_load(tmp_path: Path) -> None:
    assert Tokenizer.train(SAMPLE, vocab_size=320).digest == TRAINED.digest
    assert Tokenizer.train(SAMPLE[:-1], vocab_size=320).digest != TRAINED.digest
    TRAINED.save(tmp_path / "t.model")
    loaded = Tokenizer.load(tmp_path / "t.model")
    assert loaded.digest == TRAINED.digest
    np.testing.assert_array_equal(loaded.encode(SAMPLE[0]), TRAINED.encode(SAMPLE[0]))


def test_tabs_and_rare_characters_do_not_drop_lines_from_training() -> None:
    # SentencePiece skips whole lines that hold a tab or U+2585; they must be learned from all the same.
    tokenizer = Tokenizer.train(["\tpredictable\u2585 predictable\n"] * 50, vocab_size=290)
    assert len(tokenizer.encode("predictable")) <= 2


@given(st.lists(AWKWARD | st.text("abcdefgh", max_size=40), max_size=6), st.integers(1, 9))
def test_lines_are_cut_at_characters_that_get_no_piece(texts: list[str], at_most: int) -> None:
    counts = Counter("".join(texts))
    for never in "\n\t\0\r\u2581\u2585":
        del counts[never]
    plain: list[str] = []
    for character, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:at_most]:
        if sum(counts[one] for one in plain) < CHARACTER_COVERAGE * counts.total():
            plain.append(character)
    chosen = _frequent_characters(texts, at_most=at_most)
    assert chosen == {ord(character) for character in plain}
    lines = ["".join(c if c in plain else "\n" for c in text).split("\n") for text in texts]
    assert list(_training_lines(texts, chosen)) == [line for text in lines for line in text if line]


def test_bytes_that_are_no_text_decode_to_replacement_characters() -> None:
    broken = TRAINED.encode("é")[:1]
    assert TRAINED.decode(broken) == "\ufffd"


@pytest.mark.parametrize("tokenizer", [TRAINED, BYTES], ids=["pieces", "bytes"])
def test_lone_surrogates_and_foreign_ids_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("a\ud800b")
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(UserError, match=f"token id {wrong} is outside the vocabulary of {tokenizer.vocab_size}"):
            tokenizer.decode([3, wrong])


def test_256_tokens_are_the_bytes(tmp_path: Path) -> None:
    assert isinstance(BYTES, ByteTokenizer)
    assert BYTES.vocab_size == 256
    assert BYTES.encode("hé\n").tolist() == [ord("h"), 0xC3, 0xA9, ord("\n")]
    assert [len(ids) for ids in BYTES.encode_batch(["", "abc", "字"])] == [0, 3, 3]
    # The specials are bytes that no UTF-8 text holds, and stand for nothing.
    assert BYTES.decode([BYTES.bos_id, ord("a"), BYTES.eos_id]) == "a"
    assert BYTES.token_bytes.sum() == 254
    assert Tokenizer.train([], vocab_size=256).digest == BYTES.digest != TRAINED.digest
    BYTES.save(tmp_path / "t.model")
    loaded = Tokenizer.load(tmp_path / "t.model")
    assert isinstance(loaded, ByteTokenizer)
    assert loaded.digest == BYTES.digest
    (tmp_path / "t.model").write_bytes(BYTES.model[:-2])
    with pytest.raises(UserError, match=r"t\.model: not a SentencePiece model"):
        Tokenizer.load(tmp_path / "t.model")


def test_a_corpus_of_bytes(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [invented_text(seed, 60) for seed in range(50)])
    spec = small_spec(a=DomainSpec(weight=1.0, files=["a.jsonl"]))
    spec = spec.model_copy(update={"tokenizer": TokenizerSpec(vocab_size=256)})
    corpus = build_corpus(spec, tmp_path / "storage", base=tmp_path, report=lambda line: None)
    domain, stream = corpus.domains["a"], corpus.train_stream("a")
    assert (corpus.vocab_size, stream.dtype) == (256, np.uint16)
    assert (stream == corpus.tokenizer.bos_id).sum() == domain.train_documents
    assert domain.train_tokens == domain.train_bytes + domain.train_documents
    assert corpus.token_bytes[stream].sum() == domain.train_bytes


def test_a_samples_digest_names_its_texts_in_order() -> None:
    samples: list[list[str]] = [[], [""], ["", ""], ["ab"], ["a", "b"], ["b", "a"], ["ab", ""], SAMPLE]
    assert len({sample_digest(sample) for sample in samples}) == len(samples)
    assert sample_digest(iter(SAMPLE)) == sample_digest(list(SAMPLE))


CORPORA = os.environ.get("ISOLOSS_TEST_CORPORA")


@pytest.mark.slow
@pytest.mark.skipif(CORPORA is None, reason="ISOLOSS_TEST_CORPORA names no folder of .jsonl.zst corpora")
@pytest.mark.parametrize("vocab_size", [32_000, 65_536, 65_537])
def test_large_vocabularies_of_real_text_fit_their_shards(tmp_path: Path, vocab_size: int) -> None:
    assert CORPORA is not None
    files = find_files(["tech_proposals", "textbooks_openstax"], base=Path(CORPORA), where=CORPORA)
    texts = [
        document.text
        for name, path in files.items()
        for document in read_file(name, path, text_field="text", skipped=Counter())
    ]
    tokenizer = Tokenizer.train(texts, vocab_size=vocab_size)
    assert tokenizer.vocab_size == vocab_size
    ids = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(each) for each in ids[:50]] == texts[:50]
    shard = tmp_path / "a.bin"
    with ShardWriter(shard, vocab_size=vocab_size, tokenizer_sha256=tokenizer.digest) as writer:
        writer.append(np.concatenate([*ids, [vocab_size - 1]]))
    tokens = open_shard(shard)
    assert tokens.dtype.itemsize == (2 if vocab_size <= 65_536 else 4)
    np.testing.assert_array_equal(tokens, np.concatenate([*ids, [vocab_size - 1]]))
    text_bytes = sum(len(text.encode()) for text in texts)
    assert 3.5 < text_bytes / (len(tokens) - 1) < 6


def test_the_smallest_vocabulary_works() -> None:
    tokenizer = Tokenizer.train(SAMPLE, vocab_size=SMALLEST_LEARNED_VOCAB)
    assert tokenizer.decode(tokenizer.encode("any text: é\u2581")) == "any text: é\u2581"


@pytest.mark.parametrize("vocab_size", [1, 255, 257, SMALLEST_LEARNED_VOCAB - 1])
def test_a_vocabulary_that_there_is_none_of_is_refused(vocab_size: int) -> None:
    with pytest.raises(ValueError, match=f"vocab_size {vocab_size}: 256 is the bytes, and from 260 on it is learned"):
        TokenizerSpec(vocab_size=vocab_size)
    with pytest.raises(UserError, match=f"vocab_size {vocab_size} is too small.*{SMALLEST_LEARNED_VOCAB}"):
        Tokenizer.train(SAMPLE, vocab_size=vocab_size)


def test_a_vocabulary_beyond_the_sample_is_refused_with_the_range_that_works() -> None:
    with pytest.raises(UserError, match=r"vocab_size 50,000 is too large.*supports 260 to ([\d,]+);") as caught:
        Tokenizer.train(SAMPLE, vocab_size=50_000)
    largest = int(str(caught.value).split("supports 260 to ")[1].split(";")[0].replace(",", ""))
    assert Tokenizer.train(SAMPLE, vocab_size=largest).vocab_size == largest
    with pytest.raises(UserError, match="too large"):
        Tokenizer.train(SAMPLE, vocab_size=largest + 1)


@pytest.mark.parametrize("sample", [[], [""], ["\n\u2581\n"]])
def test_a_sample_without_text_is_refused(sample: list[str]) -> None:
    with pytest.raises(UserError, match="no text"):
        Tokenizer.train(sample, vocab_size=300)


def test_foreign_model_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.model cannot be read"):
        Tokenizer.load(tmp_path / "absent.model")
    (tmp_path / "foreign.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"foreign\.model: not a SentencePiece model"):
        Tokenizer.load(tmp_path / "foreign.model")
