"""A disk that fills at any write: one message that names the folder, what was complete stays whole, and no scraps."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama.config import RunConfig
from llama.data.corpus import Corpus
from llama.errors import UserError
from llama.records import JOURNAL, complete_steps, read_checkpoint_mark
from llama.trainer import train_segment
from tests.llama.attempts import REFUSED, assert_same_bytes, final_weights, start_attempt

STEPS = 12


def assert_nothing_is_half_written(folder: Path, config: RunConfig) -> None:
    steps = complete_steps(folder)
    assert len(steps) <= 2  # the newest, and the one before it
    scraps = [path for path in folder.rglob(".*") if path.is_file() or path.name.startswith(".step-")]
    assert scraps == []
    assert {path.name for path in folder.glob("checkpoints/*")} == {f"step-{step:08d}" for step in steps}
    vouched = 0
    if steps:
        mark = read_checkpoint_mark(folder, steps[-1])
        assert mark is not None
        vouched = mark.journal_bytes
        final_weights(folder, config)  # or raises
    journal = folder / JOURNAL
    assert (journal.stat().st_size if journal.exists() else 0) == vouched


@given(call=st.integers(0, 85))
@example(call=0)
@settings(max_examples=7, deadline=None)
def test_a_disk_that_fills_at_any_sync_leaves_the_last_good_checkpoint(
    tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory, whole: tuple[RunConfig, Path], call: int
) -> None:
    """Synced are config, lease, journal, weights, optimiser, marks, DONE and the folders of each."""
    config, undisturbed = whole
    cut = tmp_path_factory.mktemp("full") / "run"
    fsync, calls = os.fsync, iter(range(1_000_000))

    def filling(descriptor: int) -> None:
        if next(calls) >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with patch("os.fsync", filling):
        try:
            train_segment(config, run_folder=cut, corpus=tiny_corpus, until_step=STEPS, checkpoint_seconds=0.0)
        except UserError as error:
            assert str(cut) in str(error)  # noqa: PT017 - a call beyond the last is no error
            assert "No space left on device" in str(error)  # noqa: PT017
            assert_nothing_is_half_written(cut, config)
        else:
            assert next(calls) <= call
    train_segment(config, run_folder=cut, corpus=tiny_corpus, until_step=STEPS)
    assert_same_bytes(undisturbed, cut, config)


def test_a_write_that_stops_part_way_leaves_the_last_good_checkpoint(
    tiny_corpus: Corpus, tmp_path: Path, whole: tuple[RunConfig, Path]
) -> None:
    """For real: the kernel ends the write of the optimiser's file at a limit that the weights' still fits."""
    config, undisturbed = whole
    cut = tmp_path / "cut"
    train_segment(config.trunk(), run_folder=tmp_path / "sizes", corpus=tiny_corpus, until_step=1)
    files = tmp_path / "sizes" / "checkpoints" / "step-00000001"
    weights, optimizer = ((files / f"{name}.safetensors").stat().st_size for name in ("model", "optimizer"))
    process = start_attempt(config, cut, tiny_corpus, largest_file_bytes=(weights + optimizer) // 2)
    process.join()
    assert process.exitcode == REFUSED
    message = (tmp_path / "cut.message").read_text()
    assert str(cut) in message
    assert "File too large" in message
    assert_nothing_is_half_written(cut, config)
    train_segment(config, run_folder=cut, corpus=tiny_corpus, until_step=STEPS)
    assert_same_bytes(undisturbed, cut, config)
