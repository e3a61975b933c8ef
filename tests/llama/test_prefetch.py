"""Batches made ahead: in order, a few at a time, errors where they belong, and no thread left."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama.checkpoint import load_weights
from llama.data.corpus import Corpus
from llama.data.mixture import Mixture
from llama.model import Llama
from llama.prefetch import prefetch
from llama.trainer import train_segment
from tests.llama.shapes import tiny_run


def data_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@given(first=st.integers(0, 20), count=st.integers(0, 20), workers=st.integers(0, 4))
@settings(deadline=None)
def test_any_number_of_workers_gives_the_steps_in_order(first: int, count: int, workers: int) -> None:
    steps = range(first, first + count)
    with prefetch(lambda step: step * step, steps, workers=workers) as batches:
        assert list(batches) == [step * step for step in steps]
    assert data_threads() == []


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_made_ahead_than_stated(workers: int) -> None:
    made: list[int] = []
    with prefetch(made.append, range(100), workers=workers) as batches:
        for step in range(5):
            next(batches)
            time.sleep(0.02)
            assert max(made) <= step + workers + 1
    assert data_threads() == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_surfaces_at_its_step_and_ends_the_threads(workers: int) -> None:
    def make(step: int) -> int:
        if step == 5:
            raise ValueError("step 5 can't be read")
        return step

    seen = []
    with pytest.raises(ValueError, match="step 5"), prefetch(make, range(10), workers=workers) as batches:
        seen.extend(batches)
    assert data_threads() == []


def test_leaving_early_ends_the_threads() -> None:
    def leave_early() -> None:
        with prefetch(lambda step: step, range(1000), workers=3) as batches:
            next(batches)
            assert data_threads()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave_early()
    assert data_threads() == []


def test_the_number_of_workers_changes_no_bit(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = tiny_run(corpus_digest=tiny_corpus.digest, weights={"plain": 0.75, "upper": 0.25})
    states = []
    for workers in (0, 1, 3):
        folder = tmp_path / str(workers)
        train_segment(config, run_folder=folder, corpus=tiny_corpus, until_step=40, data_workers=workers)
        model = Llama(config.model)
        load_weights(folder, model)
        states.append(model.state_dict())
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name])
        assert torch.equal(weight, states[2][name])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_cannot_be_made_ends_the_run_with_its_error(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    batch = Mixture.batch

    def failing(mixture: Mixture, step: int) -> object:
        if step == 20:
            raise OSError(5, "Input/output error")
        return batch(mixture, step)

    monkeypatch.setattr(Mixture, "batch", failing)
    config = tiny_run(corpus_digest=tiny_corpus.digest, weights={"plain": 0.75, "upper": 0.25})
    with pytest.raises(OSError, match="Input/output"):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40, data_workers=workers)
    assert data_threads() == []
