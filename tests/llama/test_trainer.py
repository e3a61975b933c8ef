"""The trainer's promises: resume to the same bits from anywhere, branches equal to stand-alone runs, reasons for every end."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llama.checkpoint import load_checkpoint, load_weights
from llama.config import RunConfig
from llama.data.corpus import Corpus
from llama.errors import Diverged, Fenced, UserError
from llama.lease import Owner
from llama.model import Llama
from llama.records import (
    DONE,
    TRAIN_LOSS,
    VAL_LOSS,
    Done,
    RunStatus,
    checkpoint_folder,
    complete_steps,
    read_checkpoint_mark,
    read_done,
    read_journal,
    read_status,
    write_record,
)
from llama.trainer import train_segment
from tests.llama.shapes import branch_of, tiny_recipe, tiny_run

WEIGHTS = {"plain": 0.75, "upper": 0.25}


def run_on(corpus: Corpus, **changes: object) -> RunConfig:
    return tiny_run(corpus_digest=corpus.digest, weights=WEIGHTS, **changes)


def weights_of(folder: Path, config: RunConfig) -> dict[str, torch.Tensor]:
    model = Llama(config.model)
    load_weights(folder, model)
    return model.state_dict()


def assert_same_end(a: Path, b: Path, config: RunConfig) -> None:
    done_a, done_b = read_done(a), read_done(b)
    assert done_a is not None
    assert done_b is not None
    assert done_a.metrics == done_b.metrics
    for name, weight in weights_of(a, config).items():
        assert torch.equal(weight, weights_of(b, config)[name])


def train_losses(folder: Path) -> dict[int, float | None]:
    return {point.step: point.metrics[TRAIN_LOSS] for point in read_journal(folder) if TRAIN_LOSS in point.metrics}


def test_a_run_learns_and_ends_with_its_numbers(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = run_on(tiny_corpus, tokens=64 * 200)
    train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=200)
    done = read_done(tmp_path)
    assert done is not None
    assert read_status(tmp_path) is RunStatus.FINISHED
    assert (done.step, done.tokens) == (200, 64 * 200)
    val_loss = done.metrics[VAL_LOSS]
    assert val_loss is not None
    assert val_loss < 4.5  # ln 300 = 5.7 at the start
    points = list(read_journal(tmp_path))
    assert [point.step for point in points] == sorted(point.step for point in points)
    assert points[-1].metrics[VAL_LOSS] == val_loss
    parts = [done.metrics[f"val/{domain}/loss"] for domain in WEIGHTS]
    assert val_loss == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])


def test_a_finished_run_trains_nothing_more(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = run_on(tiny_corpus)
    train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and "lease" not in str(path)
    }
    result = train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    assert result.trained_steps == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and "lease" not in str(p)}


@pytest.mark.parametrize("stop", [1, 13, 39])
def test_a_run_stopped_at_any_step_ends_bit_identical(
    tiny_corpus: Corpus, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_on(tiny_corpus)
    train_segment(config, run_folder=tmp_path / "whole", corpus=tiny_corpus, until_step=40)

    from llama import trainer

    update = trainer._Segment._update

    def interrupted(segment: trainer._Segment) -> None:
        if segment.step == stop:
            raise KeyboardInterrupt
        update(segment)

    monkeypatch.setattr(trainer._Segment, "_update", interrupted)
    cut = {"run_folder": tmp_path / "cut", "corpus": tiny_corpus, "until_step": 40, "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train_segment(config, **cut)
    monkeypatch.undo()
    result = train_segment(config, **cut)
    # Every step ended in a checkpoint, log point or not.
    assert result.trained_steps == 40 - stop
    assert_same_end(tmp_path / "whole", tmp_path / "cut", config)
    assert train_losses(tmp_path / "whole") == train_losses(tmp_path / "cut")


def test_a_branch_equals_the_same_run_trained_alone(tiny_corpus: Corpus, tmp_path: Path) -> None:
    alone = run_on(tiny_corpus)
    branch, trunk = branch_of(alone), alone.trunk()
    assert branch.fork_step == 32
    train_segment(alone, run_folder=tmp_path / "alone", corpus=tiny_corpus, until_step=40)
    train_segment(trunk, run_folder=tmp_path / "trunk", corpus=tiny_corpus, until_step=32)
    train_segment(
        branch, run_folder=tmp_path / "branch", parent_folder=tmp_path / "trunk", corpus=tiny_corpus, until_step=40
    )
    assert_same_end(tmp_path / "alone", tmp_path / "branch", alone)
    assert min(point.step for point in read_journal(tmp_path / "branch")) > 32
    assert not (tmp_path / "trunk" / DONE).exists()


def test_a_branch_survives_a_bad_fork_checkpoint(tiny_corpus: Corpus, tmp_path: Path) -> None:
    alone = run_on(tiny_corpus)
    branch, trunk = branch_of(alone), alone.trunk()
    train_segment(alone, run_folder=tmp_path / "alone", corpus=tiny_corpus, until_step=40)
    train_segment(trunk, run_folder=tmp_path / "trunk", corpus=tiny_corpus, until_step=16)
    train_segment(trunk, run_folder=tmp_path / "trunk", corpus=tiny_corpus, until_step=32)
    (checkpoint_folder(tmp_path / "trunk", 32) / "model.safetensors").write_bytes(b"not a checkpoint")
    result = train_segment(
        branch, run_folder=tmp_path / "branch", parent_folder=tmp_path / "trunk", corpus=tiny_corpus, until_step=40
    )
    assert result.trained_steps == 24  # from the trunk's step 16
    assert_same_end(tmp_path / "alone", tmp_path / "branch", alone)
    assert min(point.step for point in read_journal(tmp_path / "branch")) > 32


def test_a_longer_trunk_keeps_its_forks_and_drops_what_was_replaced(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trunk = run_on(tiny_corpus).trunk()
    for until in (10, 20, 31):
        train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=until, checkpoint_seconds=0.0)
    assert complete_steps(tmp_path) == [10, 20, 31]


def test_a_fork_between_two_that_exist_leaves_the_journal_whole(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trunk = run_on(tiny_corpus).trunk()
    for until in (10, 30):
        train_segment(trunk, run_folder=tmp_path / "late", corpus=tiny_corpus, until_step=until)
    before = (tmp_path / "late" / "metrics.jsonl").read_bytes()
    train_segment(trunk, run_folder=tmp_path / "late", corpus=tiny_corpus, until_step=20)
    assert (tmp_path / "late" / "metrics.jsonl").read_bytes() == before
    train_segment(trunk, run_folder=tmp_path / "once", corpus=tiny_corpus, until_step=20)
    for name, weight in weights_of(tmp_path / "once", trunk).items():
        model = Llama(trunk.model)
        assert load_checkpoint(tmp_path / "late", 20, model) is not None
        assert torch.equal(weight, model.state_dict()[name])
    mark = read_checkpoint_mark(tmp_path / "late", 20)
    assert mark is not None
    assert [p.step for p in read_journal(tmp_path / "late", until_bytes=mark.journal_bytes)][-1] == 20


def test_a_diverged_run_says_why_and_stays_diverged(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = run_on(tiny_corpus, recipe=tiny_recipe(peak_lr=1e30))
    with pytest.raises(Diverged, match="step"):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    assert read_status(tmp_path) is RunStatus.DIVERGED
    with pytest.raises(Diverged, match="step"):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40)


def test_a_fork_before_a_trunks_divergence_can_still_be_trained(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trunk = run_on(tiny_corpus).trunk()
    train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=16)
    done = Done(
        outcome="diverged", reason="for the test", step=32, tokens=64 * 32, flops=1.0, metrics={}, training_seconds=1.0
    )
    write_record(tmp_path / DONE, done)
    assert train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=24).trained_steps == 8
    with pytest.raises(Diverged):
        train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=32)


def test_a_run_that_ends_in_a_non_finite_validation_has_diverged(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama.trainer.validate", lambda *arguments: {VAL_LOSS: math.nan})
    with pytest.raises(Diverged, match="validation loss nan at step 40"):
        train_segment(run_on(tiny_corpus), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    assert read_status(tmp_path) is RunStatus.DIVERGED
    assert 40 not in complete_steps(tmp_path)


def test_a_journal_that_lost_its_points_is_refused_not_padded(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trunk = run_on(tiny_corpus).trunk()
    train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=16)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl has 0 bytes"):
        train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=32)


def test_a_run_that_was_taken_over_stops_before_it_commits(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama import trainer

    update = trainer._Segment._update

    def overtaken(segment: trainer._Segment) -> None:
        if segment.step == 20:
            owner = Owner(host="elsewhere", pid=1, process_start=0.0, attempt=2)
            write_record(tmp_path / "lease" / "000002.json", owner)
        update(segment)

    monkeypatch.setattr(trainer._Segment, "_update", overtaken)
    with pytest.raises(Fenced):
        train_segment(run_on(tiny_corpus), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    assert complete_steps(tmp_path) == []
    assert not (tmp_path / DONE).exists()


def test_the_wrong_corpus_or_folder_is_refused(tiny_corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs corpus"):
        train_segment(tiny_run(), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    train_segment(run_on(tiny_corpus), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    with pytest.raises(UserError, match="another run's"):
        train_segment(run_on(tiny_corpus, seed=1), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)


KILLED = """
import sys
from pathlib import Path
from llama.config import RunConfig
from llama.data.corpus import open_corpus
from llama.trainer import train_segment
config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
train_segment(config, run_folder=Path(sys.argv[2]), corpus=open_corpus(Path(sys.argv[3])), until_step=config.steps,
              checkpoint_seconds=0.0)
"""


def test_a_killed_process_resumes_bit_identical(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = run_on(tiny_corpus, tokens=64 * 400)
    train_segment(config, run_folder=tmp_path / "whole", corpus=tiny_corpus, until_step=400)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path / "config.json"),
        str(tmp_path / "cut"),
        str(tiny_corpus.folder),
    ]
    for checkpoints in (1, 3):
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
        seen = complete_steps(tmp_path / "cut")
        new: set[int] = set()
        while len(new) < checkpoints and process.poll() is None:
            new |= set(complete_steps(tmp_path / "cut")) - set(seen)
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert len(new) >= checkpoints
    assert not (tmp_path / "cut" / DONE).exists(), "the run ended before it was killed: the test shows nothing"
    train_segment(config, run_folder=tmp_path / "cut", corpus=tiny_corpus, until_step=400)
    assert_same_end(tmp_path / "whole", tmp_path / "cut", config)
    assert train_losses(tmp_path / "whole") == train_losses(tmp_path / "cut")
