from __future__ import annotations

import pickle
import random
import unicodedata
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import llama.data.near_duplicates as near_duplicates
from llama.data.near_duplicates import GRAM_WORDS, HeldOutGrams, Overlap, gram_hashes, sorted_unique

VOCABULARY = [f"word{number}" for number in range(5000)]


def invented(seed: int, words: int) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=words)


def hold(texts: Iterable[str], **limits: int) -> HeldOutGrams:
    return HeldOutGrams.of(map(gram_hashes, texts), **limits)


def plain_grams(text: str) -> list[tuple[str, ...]]:
    """The rule as written, a word at a time."""
    composed = unicodedata.normalize("NFC", text)
    lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in composed)
    is_in_word = [c.isalnum() or unicodedata.category(c)[0] == "M" for c in lowered]
    words = "".join(c if inside else " " for c, inside in zip(lowered, is_in_word, strict=True)).split()
    length = min(GRAM_WORDS, len(words))
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)] if words else []


TEXTS = st.text(st.sampled_from("aAbB1é É😀_-'\n\t\u2028.,İß\u0301字"), max_size=120) | st.text(max_size=60)


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS)
@example("", " ")
@example("a b", "A, b!")
@example("ab c", "a bc")
@example("one two three", "one two three " * 6)
def test_equal_hashes_are_equal_grams(one: str, other: str) -> None:
    for a, gram_a in zip(gram_hashes(one), plain_grams(one), strict=True):
        for b, gram_b in zip(gram_hashes(other), plain_grams(other), strict=True):
            assert (a == b) == (gram_a == gram_b)


def test_vowel_signs_do_not_part_words() -> None:
    """Hindi: eleven words, of which most would fall in two to four where a sign does not belong to its letter."""
    sentence = "यह एक परीक्षण वाक्य है और इसमें कई शब्द हैं। समाप्त"
    words = sentence.replace("।", "").split()
    assert len(words) == 11
    filler = invented(0, GRAM_WORDS - len(words))
    assert len(gram_hashes(" ".join([sentence, *filler]))) == 1
    assert len(gram_hashes(" ".join([sentence, *filler, "शब्द"]))) == 2


def test_composed_and_decomposed_copies_are_the_same_text() -> None:
    words = [f"{word}é" if place % 2 else f"Ångström{word}" for place, word in enumerate(invented(0, 50))]
    composed = " ".join(words)
    decomposed = unicodedata.normalize("NFD", composed)
    assert decomposed != composed
    match = hold([composed]).match(decomposed)
    assert match.overlap == Overlap(50 - GRAM_WORDS + 1, 50 - GRAM_WORDS + 1)


def test_a_million_grams_have_a_million_hashes() -> None:
    text = " ".join(f"{number:x}" for number in range(1_000_000))
    assert len(np.unique(gram_hashes(text))) == 1_000_000 - GRAM_WORDS + 1


def test_parts_of_a_long_text_give_the_grams_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "  ".join(invented(0, 3000)) + "\n"
    whole = gram_hashes(text)
    monkeypatch.setattr(near_duplicates, "_SEGMENT_CHARACTERS", 100)
    np.testing.assert_array_equal(gram_hashes(text), whole)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(GRAM_WORDS, 400), st.booleans())
def test_a_document_is_a_near_duplicate_from_half_of_its_grams_on(seed: int, copied: int, front: bool) -> None:
    held_out = invented(seed, 400)
    held = hold([" ".join(invented(seed + 1, 300)), " ".join(held_out)])
    fresh = [f"fresh{number}" for number in range(200)]
    words = held_out[:copied] + fresh if front else fresh + held_out[-copied:]
    match = held.match("  ".join(words).upper())
    grams, shared = len(words) - GRAM_WORDS + 1, copied - GRAM_WORDS + 1
    assert match.overlap == Overlap(grams, shared)
    assert match.is_near_duplicate == (shared / grams >= 0.5)
    assert len(match.found) == shared
    assert not held.match(" ".join(fresh)).is_near_duplicate


@pytest.mark.parametrize(("changed", "found"), [(0.02, 200), (0.03, 200), (0.08, 0), (0.2, 0)])
def test_copies_are_found_up_to_a_twentieth_of_their_words_changed(changed: float, found: int) -> None:
    rng = random.Random(0)
    documents = [invented(seed, 1500) for seed in range(200)]
    held = hold(" ".join(words) for words in documents)
    copies = [" ".join("new" if rng.random() < changed else word for word in words) for words in documents]
    assert abs(sum(held.match(copy).is_near_duplicate for copy in copies) - found) <= 4


def test_texts_shorter_than_a_gram_match_as_a_whole() -> None:
    held = hold(["To be, or not to be.", "?!", " ".join(invented(0, 50))])
    assert held.match("to be -- or NOT to be").is_near_duplicate
    for other in ("to be or not", "to be or not to be or", "...", "", " ".join(invented(0, 12))):
        assert not held.match(other).is_near_duplicate
    assert held.match(" ".join(invented(0, 13))).is_near_duplicate


def test_what_training_keeps_of_the_held_out_grams_is_counted() -> None:
    one, other = invented(1, 112), invented(2, 212)
    held = hold([" ".join(one), " ".join(other)])
    # Two long documents quote 50 words each, 10 of them the same ones.
    kept = [
        " ".join([*invented(3, 500), *quoted, *invented(4, 500)])
        for quoted in (other[:50], other[40:90], invented(5, 90))
    ]
    matches = [held.match(text) for text in kept]
    assert not any(match.is_near_duplicate for match in matches)
    found = np.concatenate([match.found for match in matches])
    assert len(np.unique(found)) == 2 * 38
    assert [match.overlap for match in matches] == [Overlap(1038, 38), Overlap(1038, 38), Overlap(1078, 0)]


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3)))
def test_sorted_unique(values: list[int]) -> None:
    assert sorted_unique(np.array(values, dtype=np.uint64)).tolist() == sorted(set(values))


def test_beyond_the_bound_a_sample_decides_alike() -> None:
    documents = [" ".join(invented(seed, 600)) for seed in range(100)]
    held = hold(documents, max_grams=10_000)
    assert 5_000 < len(held.hashes) <= 10_000
    assert all(held.match(document).is_near_duplicate for document in documents)
    assert not any(held.match(" ".join(invented(seed, 600))).is_near_duplicate for seed in range(100, 200))
    halves = [held.match(document + " " + " ".join(invented(500 + n, 600))) for n, document in enumerate(documents)]
    share = sum(m.overlap.shared for m in halves) / sum(m.overlap.grams for m in halves)
    assert share == pytest.approx(588 / 1188, abs=0.02)


def test_order_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [" ".join(invented(seed, 100)) for seed in range(60)]
    whole = hold(documents, max_grams=1000)
    monkeypatch.setattr(near_duplicates, "_PENDING_GRAMS", 300)
    parts = hold(reversed(documents), max_grams=1000)
    np.testing.assert_array_equal(parts.hashes, whole.hashes)
    assert parts.limit == whole.limit


def test_a_copy_in_another_process_finds_the_same() -> None:
    held = hold([" ".join(invented(0, 100))])
    buffers: list[pickle.PickleBuffer] = []
    copy = pickle.loads(pickle.dumps(held, protocol=5, buffer_callback=buffers.append), buffers=buffers)
    assert len(buffers) == 2  # both arrays travel out of band, so a shared store hands them out without a copy
    np.testing.assert_array_equal(
        copy.match(" ".join(invented(0, 50))).found, held.match(" ".join(invented(0, 50))).found
    )


def test_nothing_held_out_matches_nothing() -> None:
    held = hold([])
    assert held.match(" ".join(invented(0, 100))).overlap == Overlap(88, 0)
