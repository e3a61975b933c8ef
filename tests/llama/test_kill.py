"""A real run, killed at random moments and started again each time, ends with the bytes of one that nobody disturbed."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from llama.data.corpus import Corpus
from llama.records import DONE
from llama.trainer import train_segment
from tests.llama.attempts import assert_same_bytes, newest_step, start_attempt, wait_until
from tests.llama.shapes import tiny_recipe, tiny_run


@pytest.mark.parametrize(("kills", "steps"), [(3, 40), pytest.param(20, 240, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    tiny_corpus: Corpus, tmp_path: Path, kills: int, steps: int
) -> None:
    config = tiny_run(
        corpus_digest=tiny_corpus.digest,
        weights={"plain": 0.75, "upper": 0.25},
        recipe=tiny_recipe(skip_sigma=3.0),
        micro_batch_sequences=2,
        tokens=64 * steps,
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_segment(config, run_folder=whole, corpus=tiny_corpus, until_step=steps)
    draw = random.Random(kills)
    caught_writing = 0
    for kill in range(kills):
        workers, checkpoint_seconds = draw.choice([0, 1, 2]), draw.choice([0.0, 0.02])
        process = start_attempt(config, cut, tiny_corpus, data_workers=workers, checkpoint_seconds=checkpoint_seconds)
        # The first attempt may die at any moment from its start on; later ones get some steps further, so that all fit.
        goal = kill * steps // (kills + 1)
        wait_until(lambda goal=goal: newest_step(cut) >= goal, process)
        if kill % 2:
            wait_until(lambda: any(cut.glob("checkpoints/.step-*")), process)
        else:
            time.sleep(draw.uniform(0.0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run ended before it was killed: the test shows nothing"
        caught_writing += any(cut.glob("checkpoints/.step-*"))
    assert caught_writing, "no checkpoint was cut in two: the test shows less than it says"
    assert not (cut / DONE).exists()
    last = start_attempt(config, cut, tiny_corpus)
    last.join()
    assert last.exitcode == 0
    assert_same_bytes(whole, cut, config)
    assert not any(cut.glob("checkpoints/.step-*"))
