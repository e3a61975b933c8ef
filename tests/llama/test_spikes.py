"""The rule for spikes: held against its definition in NumPy, at its borders, and in runs that are hit by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama import training_step
from llama.config import RunConfig
from llama.data.corpus import Corpus
from llama.errors import Diverged
from llama.metric_names import GRAD_NORM, SKIPPED_UPDATES, TRAIN_LOSS
from llama.records import RunStatus, read_done, read_journal, read_status
from llama.spikes import LEAST_STEPS, RECENT_STEPS, SpikeFilter
from llama.trainer import train_segment
from tests.llama.attempts import final_weights
from tests.llama.shapes import tiny_recipe, tiny_run

CPU = torch.device("cpu")


def judge_all(spikes: SpikeFilter, pairs: list[tuple[float, float]]) -> list[bool]:
    return [bool(spikes.judge(torch.tensor(loss), torch.tensor(norm)).item()) for loss, norm in pairs]


def by_definition(pairs: list[tuple[float, float]], sigma: float) -> list[bool]:
    """The rule as its sentence says it, one update after another."""
    values = np.array(pairs, dtype=np.float32).astype(np.float64)
    verdicts = []
    for step, pair in enumerate(values):
        skipped = not np.isfinite(pair).all()
        for kind in (0, 1):
            recent = values[max(0, step - RECENT_STEPS) : step, kind]
            recent = recent[np.isfinite(recent)]
            if len(recent) >= LEAST_STEPS and np.isfinite(pair[kind]):
                skipped |= bool(pair[kind] > recent.mean() + sigma * recent.std())
        verdicts.append(skipped)
    return verdicts


@given(
    seed=st.integers(0, 10_000),
    sigma=st.sampled_from([0.5, 1.5, 3.0, 6.0]),
    spikes=st.dictionaries(st.integers(0, 299), st.sampled_from([math.nan, math.inf, -math.inf, 4.0, 30.0, 1e30])),
    kind=st.sampled_from([0, 1]),
)
@settings(max_examples=25, deadline=None)
def test_it_is_its_definition(seed: int, sigma: float, spikes: dict[int, float], kind: int) -> None:
    values = np.random.default_rng(seed).normal(3.0, 0.2, size=(300, 2))
    for step, value in spikes.items():
        values[step, kind] = value
    pairs = [(float(loss), float(norm)) for loss, norm in values]
    spike_filter = SpikeFilter(sigma, CPU)
    verdicts = judge_all(spike_filter, pairs)
    assert verdicts == by_definition(pairs, sigma)
    in_a_row = next((back for back, skipped in enumerate(reversed(verdicts)) if not skipped), 300)
    assert spike_filter.counts() == (sum(verdicts), in_a_row)


@given(level=st.floats(2.0**-100, 2.0**100, width=32), sigma=st.floats(0.1, 12), length=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_a_constant_is_no_spike(level: float, sigma: float, length: int) -> None:
    assert not any(judge_all(SpikeFilter(sigma, CPU), [(level, level)] * length))


@given(sigma=st.sampled_from([2.0, 3.0, 6.0]), step_up=st.floats(0.1, 1e6))
@settings(max_examples=10, deadline=None)
def test_a_level_that_rose_for_good_is_believed_after_the_stated_steps(sigma: float, step_up: float) -> None:
    spikes = SpikeFilter(sigma, CPU)
    judge_all(spikes, [(1.0, 1.0)] * RECENT_STEPS)
    verdicts = judge_all(spikes, [(1.0 + step_up, 1.0)] * RECENT_STEPS)
    believed = math.ceil(RECENT_STEPS / (1 + sigma**2))  # not whole for these sigmas, where rounding would decide
    assert verdicts == [True] * believed + [False] * (RECENT_STEPS - believed)


def test_a_memory_that_was_saved_judges_on_alike() -> None:
    values = np.random.default_rng(0).normal(3.0, 0.5, size=(260, 2)).tolist()
    pairs = [(float(a), float(b)) for a, b in values]
    pairs[100] = (math.nan, 1.0)
    whole, first, second = (SpikeFilter(1.5, CPU) for _ in range(3))
    expected = judge_all(whole, pairs)
    judge_all(first, pairs[:150])
    second.fill(first.tensors())
    assert judge_all(second, pairs[150:]) == expected[150:]
    assert second.counts() == whole.counts()


# -- in a run -----------------------------------------------------------------------------------------------------------


def spiky_run(corpus: Corpus, steps: int, sigma: float | None = 6.0) -> RunConfig:
    weights = {"plain": 0.75, "upper": 0.25}
    recipe = tiny_recipe(skip_sigma=sigma)
    return tiny_run(corpus_digest=corpus.digest, weights=weights, recipe=recipe, tokens=64 * steps)


@contextmanager
def loss_times(factor: Callable[[int], float]) -> Iterator[None]:
    """Losses, and so gradients, multiplied by a function of the step."""
    original, calls = training_step.next_token_loss, iter(range(10_000))

    def exploding(*arguments: object, **options: object) -> torch.Tensor:
        return original(*arguments, **options) * factor(next(calls))

    with patch.object(training_step, "next_token_loss", exploding):
        yield


@pytest.mark.parametrize("factor", [math.inf, 1e4])
def test_a_spike_is_skipped_counted_and_journalled(tiny_corpus: Corpus, tmp_path: Path, factor: float) -> None:
    config = spiky_run(tiny_corpus, 120)
    with loss_times(lambda step: factor if step == 90 else 1.0):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=120)
    points = [point for point in read_journal(tmp_path) if TRAIN_LOSS in point.metrics]
    assert {point.metrics[SKIPPED_UPDATES] for point in points if point.step <= 90} == {0.0}
    assert {point.metrics[SKIPPED_UPDATES] for point in points if point.step > 90} == {1.0}
    for point in points:  # the means are of the updates that were made
        assert point.metrics[TRAIN_LOSS] is not None
        assert point.metrics[TRAIN_LOSS] < 7
        assert point.metrics[GRAD_NORM] is not None
    done = read_done(tmp_path)
    assert done is not None
    assert done.metrics[SKIPPED_UPDATES] == 1.0


def test_an_update_that_is_skipped_changes_no_bit_but_the_learning_rates_step(
    tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """The weights stand still over it, moments and bias correction too: a run whose batch exploded equals one in which that
    update was not called at all.
    """
    config = spiky_run(tiny_corpus, 40)
    with loss_times(lambda step: math.nan if step == 20 else 1.0):
        train_segment(config, run_folder=tmp_path / "exploded", corpus=tiny_corpus, until_step=40)
    original, calls = torch.optim.AdamW.step, iter(range(10_000))

    def all_but_one(optimizer: torch.optim.AdamW) -> None:
        if next(calls) != 20:
            original(optimizer)

    with patch.object(torch.optim.AdamW, "step", all_but_one):
        train_segment(config, run_folder=tmp_path / "uncalled", corpus=tiny_corpus, until_step=40)
    expected = final_weights(tmp_path / "uncalled", config)
    for name, weight in final_weights(tmp_path / "exploded", config).items():
        assert torch.equal(weight, expected[name]), name


def test_without_the_option_a_non_finite_loss_ends_the_run_at_the_next_log_point(
    tiny_corpus: Corpus, tmp_path: Path
) -> None:
    config = spiky_run(tiny_corpus, 40, sigma=None)
    with (
        loss_times(lambda step: math.nan if step == 20 else 1.0),
        pytest.raises(Diverged, match=r"loss nan .* at step 24 "),
    ):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    assert all(SKIPPED_UPDATES not in point.metrics for point in read_journal(tmp_path))


@pytest.mark.parametrize(("steps", "from_step", "reported"), [(200, 50, 180), (40, 0, 40)])
def test_a_run_that_only_skips_has_diverged(
    tiny_corpus: Corpus, tmp_path: Path, steps: int, from_step: int, reported: int
) -> None:
    """After a whole window, or in a run shorter than one after all of it."""
    config = spiky_run(tiny_corpus, steps)
    reason = f"the last {reported - from_step} updates were all skipped as spikes at step {reported} "
    with loss_times(lambda step: math.nan if step >= from_step else 1.0), pytest.raises(Diverged, match=reason):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=steps)
    assert read_status(tmp_path) is RunStatus.DIVERGED
    with pytest.raises(Diverged, match=reason):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=steps)
