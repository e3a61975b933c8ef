from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama.data.corpus import Corpus
from llama.data.held_out import validation_batches
from llama.data.mixture import Mixture
from llama.data.quotas import BLOCK_SEQUENCES, block_quotas
from llama.data.repetition import repetition
from llama.errors import UserError

WEIGHTS = {"left": 0.7, "right": 0.3}


def counting_corpus(**tokens: int) -> Any:
    """A stand-in whose streams tell where a window came from: token i of the d-th domain is d * 1,000,000 + i."""
    streams = {name: np.arange(count) + 1_000_000 * d for d, (name, count) in enumerate(sorted(tokens.items()))}
    return SimpleNamespace(train_stream=streams.__getitem__, validation_stream=streams.__getitem__)


def make(corpus: Any, *, seed: int = 0, batch: int = 8, context: int = 16, weights: Any = None) -> Mixture:
    weights = weights or WEIGHTS
    return Mixture(corpus, weights, context_length=context, batch_sequences=batch, seed=seed)


def first_tokens(mixture: Mixture, sequences: int) -> np.ndarray:
    steps = -(-sequences // mixture.batch_sequences)
    return np.concatenate([mixture.batch(step)[:, 0] for step in range(steps)])[:sequences]


def test_a_batch_is_windows_of_the_streams(small_corpus: Corpus) -> None:
    streams = {name: small_corpus.train_stream(name).tolist() for name in WEIGHTS}
    tokens_BT1 = make(small_corpus).batch(3)
    assert tokens_BT1.shape == (8, 17)
    assert tokens_BT1.dtype == np.int64
    starts = {tuple(stream[w : w + 17]) for stream in streams.values() for w in range(0, len(stream) - 16, 16)}
    assert all(tuple(row) in starts for row in tokens_BT1.tolist())


def test_a_batch_depends_on_seed_and_step_alone(small_corpus: Corpus) -> None:
    steps = [0, 1, 127, 128, 300, 5_000]
    forward = [make(small_corpus).batch(step) for step in steps]
    mixture = make(small_corpus, weights=dict(reversed(WEIGHTS.items())))
    for step, expected in reversed(list(zip(steps, forward, strict=True))):
        np.testing.assert_array_equal(mixture.batch(step), expected)
    script = (
        "import sys, pathlib; from llama.data.corpus import open_corpus; from llama.data.mixture import Mixture\n"
        "m = Mixture(open_corpus(pathlib.Path(sys.argv[1])), {'right': 0.3, 'left': 0.7}, context_length=16, "
        "batch_sequences=8, seed=0)\n"
        "print(m.batch(300).tolist())"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, str(small_corpus.folder)], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == str(forward[steps.index(300)].tolist())


def test_sequences_do_not_depend_on_the_batch_size() -> None:
    corpus = counting_corpus(left=5000, right=3000)
    np.testing.assert_array_equal(
        first_tokens(make(corpus, batch=7), 3000), first_tokens(make(corpus, batch=2500), 3000)
    )


def test_seeds_differ_in_order_and_epochs_differ_in_order() -> None:
    corpus = counting_corpus(only=16 * 1024 + 1)
    epoch_0, epoch_1 = first_tokens(make(corpus, weights={"only": 1.0}), 2048).reshape(2, 1024)
    other_seed = first_tokens(make(corpus, weights={"only": 1.0}, seed=1), 1024)
    for order in (epoch_1, other_seed):
        assert sorted(order) == sorted(epoch_0)
        assert (order == epoch_0).mean() < 0.02
    # A shuffle, not a shift or a stride: successive differences hardly repeat.
    assert Counter(np.diff(epoch_0).tolist()).most_common(1)[0][1] < 10


@settings(max_examples=25, deadline=None)
@given(windows=st.integers(1, 700), context=st.integers(1, 9), seed=st.integers(0, 2**31), spare=st.integers(0, 8))
def test_each_epoch_covers_each_window_once(windows: int, context: int, seed: int, spare: int) -> None:
    corpus = counting_corpus(left=windows * context + 1 + min(spare, context - 1), right=997)
    mixture = make(corpus, seed=seed, batch=64, context=context, weights={"left": 0.6, "right": 0.4})
    starts = first_tokens(mixture, 3 * BLOCK_SEQUENCES)
    left = starts[starts < 1_000_000]
    for first in range(0, len(left) - windows + 1, windows):
        assert sorted(left[first : first + windows]) == [window * context for window in range(windows)]


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 100), min_size=1), st.integers(0, 9))
def test_shares_are_exact_in_every_block(weights: dict[str, float], block: int) -> None:
    names = sorted(weights)
    total = sum(weights.values())
    if min(weights.values()) / total < 1 / BLOCK_SEQUENCES:
        return
    mixture = make(counting_corpus(**dict.fromkeys(names, 500)), batch=BLOCK_SEQUENCES, weights=weights)
    counted = Counter((mixture.batch(block)[:, 0] // 1_000_000).tolist())
    for number, name in enumerate(names):
        assert counted[number] == block_quotas(weights)[name]
        assert abs(counted[number] - BLOCK_SEQUENCES * weights[name] / total) < 1


@settings(max_examples=30, deadline=None)
@given(left=st.integers(17, 30_000), right=st.integers(17, 30_000), blocks=st.integers(1, 4), seed=st.integers(0, 99))
def test_epochs_and_unique_tokens_in_closed_form_are_the_counted_ones(
    left: int, right: int, blocks: int, seed: int
) -> None:
    tokens = {"left": left, "right": right}
    starts = first_tokens(make(counting_corpus(**tokens), batch=BLOCK_SEQUENCES, seed=seed), blocks * BLOCK_SEQUENCES)
    drawn = repetition(tokens, WEIGHTS, context_length=16, tokens=len(starts) * 16)
    assert drawn.unique_tokens == 16 * len(np.unique(starts))
    assert drawn.repetitions == len(starts) / len(np.unique(starts))
    assert drawn.epochs["left"] == pytest.approx((starts < 1_000_000).sum() / ((left - 1) // 16))
    assert drawn.epochs["right"] == pytest.approx((starts >= 1_000_000).sum() / ((right - 1) // 16))


def test_a_mixture_says_what_its_steps_drew(small_corpus: Corpus) -> None:
    mixture = make(small_corpus)
    drawn = repetition(small_corpus.train_tokens, WEIGHTS, context_length=16, tokens=300 * 8 * 16)
    assert mixture.repetition(300) == drawn
    assert drawn.metrics == {
        "data/unique_tokens": drawn.unique_tokens,
        "data/repetitions": drawn.repetitions,
        "data/epochs/left": drawn.epochs["left"],
        "data/epochs/right": drawn.epochs["right"],
    }
    assert drawn.repetitions > 1
    assert drawn.epochs["right"] > 1
    assert mixture.repetition(1).repetitions == 1.0
    assert mixture.repetition(0).unique_tokens == 0


def test_no_training_window_holds_a_held_out_document(small_corpus: Corpus) -> None:
    held_out, trained = set(), set()
    mixture = make(small_corpus, batch=BLOCK_SEQUENCES)
    windows = [mixture.batch(step) for step in range(2)]
    text = "".join(small_corpus.tokenizer.decode(row) + "|" for batch in windows for row in batch)
    for name in WEIGHTS:
        for documents, stream in (
            (held_out, small_corpus.validation_stream(name)),
            (trained, small_corpus.train_stream(name)),
        ):
            ends = np.append(np.flatnonzero(stream == small_corpus.tokenizer.bos_id), len(stream))
            documents.update(small_corpus.tokenizer.decode(stream[a:b]) for a, b in pairwise(ends))
    assert len(held_out) > 20
    assert not held_out & trained
    # Each invented document ends in its own number.
    assert not [document for document in held_out if f"{document.split()[-1]}\n" in text]
    assert any(f"{document.split()[-1]}\n" in text for document in trained)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"left": 1.0, "absent": 1.0}, "no domain 'absent'; it has left, right"),
        ({"left": 1.0, "right": 1e-5}, "'right' has 1e-05 of the weight: less than one of 1,024 sequences"),
        ({"left": 1.0, "right": 0.0}, "must be positive"),
        ({}, "must be positive"),
    ],
)
def test_impossible_weights_are_refused(small_corpus: Corpus, weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture(small_corpus, weights, context_length=16, batch_sequences=8, seed=0)
    with pytest.raises(UserError, match=message):
        repetition(small_corpus.train_tokens, weights, context_length=16, tokens=1000)


def test_a_context_longer_than_a_domain_is_refused(small_corpus: Corpus) -> None:
    message = r"domain 'left' has [\d,]+ {} tokens, fewer than one sequence of context_length 10,000,000"
    with pytest.raises(UserError, match=message.format("training")):
        make(small_corpus, context=10_000_000)
    with pytest.raises(UserError, match=message.format("held-out")):
        validation_batches(small_corpus, WEIGHTS, context_length=10_000_000, validation_tokens=640, batch_sequences=16)


def test_a_context_longer_than_every_document_takes_several(small_corpus: Corpus) -> None:
    documents = small_corpus.domains["left"].train_documents
    context = 20 * small_corpus.train_tokens["left"] // documents
    starts = (make(small_corpus, context=context).batch(0) == small_corpus.tokenizer.bos_id).sum(axis=1)
    assert (starts >= 10).all()


def test_validation_windows_are_fixed_and_shared_evenly(small_corpus: Corpus) -> None:
    def sets(batch: int) -> Any:
        return validation_batches(
            small_corpus, WEIGHTS, context_length=16, validation_tokens=640, batch_sequences=batch
        )

    one, other = sets(8), sets(3)
    assert [part.domain for part in one] == ["left", "right"]
    assert [part.tokens for part in one] == [320, 320]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(np.concatenate(list(a)), np.concatenate(list(b)))
        assert [len(batch) for batch in b] == [3, 3, 3, 3, 3, 3, 2]
        stream = small_corpus.validation_stream(a.domain)
        windows = np.concatenate(list(a))
        assert windows.shape == (20, 17)
        assert len({tuple(window) for window in windows.tolist()}) == 20
        assert windows[0].tolist() == stream[:17].tolist()


def test_a_domain_with_fewer_held_out_tokens_gives_what_it_has() -> None:
    corpus = counting_corpus(left=16 * 10 + 1, right=16 * 1000 + 1)
    left, right = validation_batches(corpus, WEIGHTS, context_length=16, validation_tokens=16 * 200, batch_sequences=64)
    assert (left.tokens, right.tokens) == (16 * 10, 16 * 100)
    assert sorted(np.concatenate(list(left))[:, 0]) == list(range(0, 160, 16))
