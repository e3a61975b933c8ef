from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama.data.tokenizer import SMALLEST_VOCAB, Tokenizer
from llama.errors import UserError

from .conftest import invented_text

SAMPLE = [invented_text(seed, 200) + "    indented = 42\n" for seed in range(20)]


TRAINED = Tokenizer.train(SAMPLE, vocab_size=320)

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
    ids = TRAINED.encode(text)
    assert TRAINED.decode(ids) == text
    assert TRAINED.token_bytes[ids].sum() == len(text.encode())


def test_words_are_encoded_as_sentencepiece_encodes_the_whole_text() -> None:
    for text in ("".join(SAMPLE), "".join(SAMPLE).replace("\n", " "), "  a\n   b  \n\n  model  \t text\n"):
        whole = TRAINED._processor.encode(text, return_type="numpy")
        np.testing.assert_array_equal(TRAINED.encode(text), whole)


@pytest.mark.parametrize("limit", ["_SEGMENT_CHARACTERS", "_CACHE_CHARACTERS"])
def test_bounding_memory_changes_no_token(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    text = "".join(SAMPLE)
    whole = TRAINED.encode(text)
    monkeypatch.setattr(f"llama.data.tokenizer.{limit}", 2 * max(map(len, SAMPLE)))
    tokenizer = Tokenizer(TRAINED.model)
    for ids, sample in zip(tokenizer.encode_batch([text, "", *SAMPLE]), [text, "", *SAMPLE], strict=True):
        np.testing.assert_array_equal(ids, TRAINED.encode(sample))
    np.testing.assert_array_equal(tokenizer.encode(text), whole)


def test_long_runs_without_a_place_to_cut_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama.data.tokenizer._SEGMENT_CHARACTERS", 5000)
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


def test_bytes_that_are_no_text_decode_to_replacement_characters() -> None:
    broken = TRAINED.encode("é")[:1]
    assert TRAINED.decode(broken) == "\ufffd"


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        TRAINED.encode("a\ud800b")


def test_the_smallest_vocabulary_works() -> None:
    tokenizer = Tokenizer.train(SAMPLE, vocab_size=SMALLEST_VOCAB)
    assert tokenizer.decode(tokenizer.encode("any text: é\u2581")) == "any text: é\u2581"


@pytest.mark.parametrize("vocab_size", [1, 256, SMALLEST_VOCAB - 1])
def test_a_vocabulary_below_the_bytes_is_refused(vocab_size: int) -> None:
    with pytest.raises(UserError, match=f"vocab_size {vocab_size} is too small.*{SMALLEST_VOCAB}"):
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
