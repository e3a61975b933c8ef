"""transformers' AutoTokenizer, from the files we write, gives our ids, whatever the text."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama.data.tokenizer import Tokenizer
from llama.errors import UserError
from llama.hugging_face_tokenizer import (
    SENTENCEPIECE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    tokenizer_json,
    write_tokenizer,
)
from tests.llama.data.conftest import invented_text

transformers = pytest.importorskip("transformers", reason="needs the hf extra")

REAL = [path.read_text(encoding="utf-8") for path in sorted(Path(json.__file__).parent.glob("*.py"))]
#: Few characters in long runs: pieces overlap themselves, and most have several pairs that make them.
RUNS = ["".join(random.Random(seed).choices(["a", "b", "aa", "ab", "    ", " "], k=400)) for seed in range(40)]

SAMPLES: dict[str, tuple[list[str], int]] = {
    "bytes": ([], 256),
    "small": ([invented_text(seed, 200) + "    indented = 42\n" for seed in range(20)], 320),
    "real": (REAL, 2000),
    "runs": (RUNS, 600),
}


@cache
def pair(name: str) -> tuple[Tokenizer, Any, Path]:
    """A tokenizer of ours, and what transformers makes of its folder."""
    sample, vocab_size = SAMPLES[name]
    ours = Tokenizer.train(sample, vocab_size=vocab_size)
    folder = Path(mkdtemp())
    write_tokenizer(ours, folder, context_length=64)
    (folder / "config.json").write_text('{"model_type": "llama"}')  # decides which class AutoTokenizer takes
    return ours, transformers.AutoTokenizer.from_pretrained(folder, model_max_length=10**9), folder


def assert_equal_ids(name: str, text: str) -> None:
    ours, theirs, _ = pair(name)
    ids = ours.encode(text).tolist()
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs(text)["input_ids"] == [ours.bos_id, *ids]
    assert theirs.decode(ids) == text
    assert theirs.decode([ours.bos_id, *ids, ours.eos_id], skip_special_tokens=True) == text


AWKWARD = st.text(st.sampled_from("\u2581\u2585 \n\r\t\0a1é\u3000\ufeff<>/sx0A{}😀\u2028"), max_size=60)
SPECIAL_WORDS = st.lists(st.sampled_from(["<s>", "</s>", "<unk>", "<0x41>", "\u2581", " ", "a", "é"])).map("".join)


@pytest.mark.parametrize("name", ["bytes", "small", "real"])
@settings(deadline=None)
@given(text=st.text(max_size=200) | AWKWARD | SPECIAL_WORDS)
@example(text="")
@example(text="\u2581")
@example(text=" \u2581 a\u2581\u2581b")
@example(text="<s> </s> <unk> <0x0A> <0x41>")
@example(text="  leading, trailing  \n\n \t\r\n")
@example(text="0123 4567\t89")
@example(text="e\u0301 ﬁ Å ￾ \U0010ffff \u2585\0")
@example(text="def f(x):\n    return x[0]   # 42\n")
def test_any_text_has_the_same_ids_and_comes_back(name: str, text: str) -> None:
    assert_equal_ids(name, text)


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.sampled_from("ab "), max_size=120))
def test_pieces_that_overlap_themselves_are_joined_alike(text: str) -> None:
    ours, _, folder = pair("runs")
    merges = json.loads((folder / TOKENIZER_FILE).read_text())["model"]["merges"]
    assert len(merges) > 1.5 * ours.vocab_size  # most pieces are made by several pairs
    assert_equal_ids("runs", text)


@pytest.mark.parametrize("name", ["bytes", "small", "real"])
def test_real_text_has_the_same_ids(name: str) -> None:
    assert sum(map(len, REAL)) > 20_000
    for text in REAL:
        assert_equal_ids(name, text)


@pytest.mark.parametrize("characters", [4095, 4096, 4097, 9000])
def test_long_words_are_cut_alike(characters: int) -> None:
    for text in ("a" * characters, "  " + "ab" * characters + " c", " " * characters + "x", "é" * characters):
        assert_equal_ids("runs", text)


def test_a_very_long_line_may_differ_at_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one kind of text whose ids differ: ours starts anew every 2^20 characters without a line end."""
    ours, theirs, _ = pair("real")
    text = "return" * 4
    assert_equal_ids("real", text)
    monkeypatch.setattr("llama.data.sentencepiece_tokenizer._SEGMENT_CHARACTERS", 3)
    ids = ours.encode(text).tolist()
    assert ids != theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids) == text


def test_two_texts_are_each_a_document() -> None:
    ours, theirs, _ = pair("small")
    a, b = ours.encode("a model").tolist(), ours.encode("learns").tolist()
    assert theirs("a model", "learns")["input_ids"] == [ours.bos_id, *a, ours.bos_id, *b]
    assert list(theirs("a")) == ["input_ids", "attention_mask"]  # what generate takes, and no more


def test_the_names_and_numbers_of_the_specials_agree() -> None:
    for name, (unknown, bos, eos) in {"bytes": (None, 255, 254), "small": (0, 1, 2)}.items():
        ours, theirs, _ = pair(name)
        assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id) == (unknown, bos, eos)
        assert (ours.bos_id, ours.eos_id) == (bos, eos)
        assert len(theirs) == theirs.vocab_size == ours.vocab_size  # nothing was added beyond the model's vocabulary


def test_what_llama_cpps_converter_reads_is_there() -> None:
    """It can't run here. Its conversion/base.py takes the vocabulary from `tokenizer.model` by these calls, its llama.py takes
    `add_prefix_space`, and gguf's SpecialVocab these keys, each special's id by its content in `added_tokens`.
    """
    ours, _, folder = pair("small")
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromFile(str(folder / SENTENCEPIECE_FILE))
    assert processor.vocab_size() == ours.vocab_size
    kinds = [processor.IsUnknown(0), processor.IsControl(1), processor.IsControl(2), processor.IsByte(3)]
    assert all(kinds)
    assert (processor.IdToPiece(1), processor.IdToPiece(3), processor.IdToPiece(258)) == ("<s>", "<0x00>", "<0xFF>")
    assert processor.GetScore(259) > processor.GetScore(260)
    config = json.loads((folder / TOKENIZER_CONFIG_FILE).read_text())
    assert (config["add_prefix_space"], config["add_bos_token"], config["add_eos_token"]) == (False, True, False)
    rules = json.loads((folder / TOKENIZER_FILE).read_text())
    ids = {token["content"]: token["id"] for token in rules["added_tokens"]}
    assert [ids[config[key]] for key in ("unk_token", "bos_token", "eos_token")] == [0, 1, 2]
    assert rules["post_processor"]["single"][0]["SpecialToken"]["id"] == config["bos_token"]


def test_bytes_leave_llama_cpps_converter_to_tokenizer_json() -> None:
    """Without a `tokenizer.model` it takes gguf's LlamaHfVocab, which asks for these fields."""
    _, _, folder = pair("bytes")
    assert not (folder / SENTENCEPIECE_FILE).exists()
    rules = json.loads((folder / TOKENIZER_FILE).read_text())
    assert (rules["model"]["type"], rules["model"]["byte_fallback"], rules["model"]["ignore_merges"]) == (
        "BPE",
        True,
        False,
    )
    assert rules["decoder"]["type"] == "Sequence"


@pytest.mark.parametrize("other", [{"model_type": "unigram"}, {"model_type": "bpe", "bos_piece": "[BOS]"}])
def test_a_model_that_isoloss_did_not_train_is_refused(other: dict[str, str], tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(REAL[0].splitlines()),
        model_prefix=str(tmp_path / "foreign"),
        vocab_size=500,
        byte_fallback=True,
        minloglevel=2,
        **other,
    )
    with pytest.raises(UserError, match="no BPE model that isoloss trained"):
        tokenizer_json(Tokenizer.load(tmp_path / "foreign.model"))
