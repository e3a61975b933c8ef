"""The trainer's promises: resume to the same bits from anywhere, branches equal to stand-alone runs, reasons for every end."""

from __future__ import annotations

import gc
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama.checkpoint import load_checkpoint
from llama.config import RunConfig
from llama.data.corpus import Corpus, open_corpus, shard_path
from llama.data.repetition import repetition
from llama.errors import Diverged, Fenced, Preempted, UserError
from llama.lease import Owner
from llama.metric_names import VAL_LOSS
from llama.model import Llama
from llama.records import (
    DONE,
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
from llama.training_state import TrainingState
from llama.training_step import StepResult, training_step
from tests.llama.attempts import final_weights, journalled
from tests.llama.host_reads import host_reads
from tests.llama.shapes import branch_of, tiny_model, tiny_recipe, tiny_run

WEIGHTS = {"plain": 0.75, "upper": 0.25}


def run_on(corpus: Corpus, **changes: object) -> RunConfig:
    return tiny_run(corpus_digest=corpus.digest, weights=WEIGHTS, **changes)


def assert_same_end(a: Path, b: Path, config: RunConfig) -> None:
    done_a, done_b = read_done(a), read_done(b)
    assert done_a is not None
    assert done_b is not None
    assert done_a.metrics == done_b.metrics
    for name, weight in final_weights(a, config).items():
        assert torch.equal(weight, final_weights(b, config)[name])


@contextmanager
def asked_to_leave_at(step: int) -> Iterator[None]:
    """SIGTERM while the update to `step` is made: the run leaves with a checkpoint there, log point or not."""
    update = TrainingState.update

    def update_and_notice(state: TrainingState, *arguments: Any, **options: Any) -> StepResult:
        result = update(state, *arguments, **options)
        if state.step == step:
            signal.raise_signal(signal.SIGTERM)
        return result

    with patch.object(TrainingState, "update", update_and_notice):
        yield


@contextmanager
def dying_at(step: int) -> Iterator[None]:
    """The update to `step` is never made."""
    update = TrainingState.update

    def update_or_die(state: TrainingState, *arguments: Any, **options: Any) -> StepResult:
        if state.step + 1 == step:
            raise RuntimeError("killed")
        return update(state, *arguments, **options)

    with patch.object(TrainingState, "update", update_or_die):
        yield


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
    context_length = config.model.context_length
    drawn = repetition(tiny_corpus.train_tokens, WEIGHTS, context_length=context_length, tokens=64 * 200)
    assert drawn.epochs["plain"] > drawn.epochs["upper"] > 0
    assert {name: value for name, value in done.metrics.items() if name.startswith("data/")} == drawn.metrics


@pytest.mark.parametrize("sigma", [None, 6.0])
def test_the_loop_reads_nothing_from_the_device_between_log_points(
    tiny_corpus: Corpus, tmp_path: Path, sigma: float | None
) -> None:
    config = run_on(tiny_corpus, recipe=tiny_recipe(skip_sigma=sigma), micro_batch_sequences=2)
    update = TrainingState.update
    at_start: list[int] = []

    def noted(state: TrainingState, *arguments: Any, **options: Any) -> StepResult:
        at_start.append(len(reads))
        return update(state, *arguments, **options)

    with patch.object(TrainingState, "update", noted), host_reads() as reads:
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    reading = [step for step in range(1, 40) if at_start[step] > at_start[step - 1]]
    assert reading == list(range(4, 40, config.log_every_steps))


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_in_a_step_and_the_collector_is_left_as_it_was(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    update = TrainingState.update
    in_steps: list[bool] = []

    def noted(state: TrainingState, *arguments: Any, **options: Any) -> StepResult:
        in_steps.append(gc.isenabled())
        if state.step == 20:
            raise InterruptedError
        return update(state, *arguments, **options)

    monkeypatch.setattr(TrainingState, "update", noted)
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(InterruptedError):
            train_segment(run_on(tiny_corpus), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
        assert gc.isenabled() is enabled
        assert in_steps == [False] * 21
    finally:
        gc.enable()


def test_a_finished_run_trains_nothing_more(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = run_on(tiny_corpus)
    train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and "lease" not in str(path)
    }
    result = train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    assert result.trained_steps == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and "lease" not in str(p)}


#: What changes the path that bits take, and so what must resume to the same ones.
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "micro-batches": {"micro_batch_sequences": 1},
    "bfloat16": {"dtype": "bfloat16", "micro_batch_sequences": 2},
    "spikes": {"recipe": tiny_recipe(skip_sigma=0.5)},
    "recomputed": {"model": tiny_model(tied_head=True), "activation_checkpointing": "selective"},
    "recomputed whole": {"activation_checkpointing": "full"},
}


@pytest.fixture(scope="module")
def undisturbed(
    tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[RunConfig, Path]]:
    """The config and folder of a variant's run, trained without a stop."""

    @cache
    def trained(variant: str) -> tuple[RunConfig, Path]:
        config = run_on(tiny_corpus, tokens=64 * 48, **VARIANTS[variant])
        folder = tmp_path_factory.mktemp("whole")
        train_segment(config, run_folder=folder, corpus=tiny_corpus, until_step=48)
        return config, folder

    return trained


@pytest.mark.parametrize("variant", VARIANTS)
@given(data=st.data())
@settings(max_examples=2, deadline=None)
def test_a_run_stopped_at_any_steps_ends_bit_identical(
    tiny_corpus: Corpus,
    tmp_path_factory: pytest.TempPathFactory,
    undisturbed: Callable[[str], tuple[RunConfig, Path]],
    variant: str,
    data: st.DataObject,
) -> None:
    stops = sorted(data.draw(st.sets(st.integers(1, 47), min_size=1, max_size=2), label="stops"))
    config, whole = undisturbed(variant)
    cut = tmp_path_factory.mktemp("cut")
    for stop in stops:
        workers = data.draw(st.sampled_from([0, 2]), label="data workers")
        with asked_to_leave_at(stop), pytest.raises(Preempted, match=f"step {stop}$"):
            train_segment(config, run_folder=cut, corpus=tiny_corpus, until_step=48, data_workers=workers)
    result = train_segment(config, run_folder=cut, corpus=tiny_corpus, until_step=48)
    assert result.trained_steps == 48 - stops[-1]
    assert_same_end(whole, cut, config)
    assert journalled(whole) == journalled(cut)


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_to_the_same_bits(
    tiny_corpus: Corpus, tmp_path: Path, undisturbed: Callable[[str], tuple[RunConfig, Path]]
) -> None:
    config, whole = undisturbed("plain")
    with dying_at(21), pytest.raises(RuntimeError, match="killed"):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=48, checkpoint_seconds=0.0)
    assert complete_steps(tmp_path) == [19, 20]
    (checkpoint_folder(tmp_path, 20) / "model.safetensors").write_bytes(b"not a checkpoint")
    with (
        dying_at(20),
        pytest.raises(RuntimeError, match="killed"),
        pytest.warns(UserWarning, match="step-00000020 is damaged, and passed over"),
    ):
        train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=48)
    assert complete_steps(tmp_path) == [19]
    result = train_segment(config, run_folder=tmp_path, corpus=tiny_corpus, until_step=48)
    assert result.trained_steps == 29
    assert_same_end(whole, tmp_path, config)
    assert journalled(whole) == journalled(tmp_path)


def test_a_fresh_runs_names_are_synced_before_anything_vouches_for_them(tiny_corpus: Corpus, tmp_path: Path) -> None:
    """A trunk writes no DONE, whose sync of the folder would come too late and hide that none came before."""
    run_folder = tmp_path / "run"
    synced: dict[Path, list[set[str]]] = {tmp_path: [], run_folder: []}
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        for folder, listings in synced.items():
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                listings.append({path.name for path in folder.iterdir()})
        fsync(descriptor)

    with patch("os.fsync", noted):
        train_segment(run_on(tiny_corpus).trunk(), run_folder=run_folder, corpus=tiny_corpus, until_step=4)
    assert synced[tmp_path] == [{"run"}]
    attempt_starts, first_save = synced[run_folder][-2:]
    assert "metrics.jsonl" in attempt_starts
    assert "checkpoints" in first_save - attempt_starts


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
    with pytest.warns(UserWarning, match="step-00000032 is damaged, and passed over"):
        result = train_segment(
            branch, run_folder=tmp_path / "branch", parent_folder=tmp_path / "trunk", corpus=tiny_corpus, until_step=40
        )
    assert result.trained_steps == 24  # from the trunk's step 16
    assert_same_end(tmp_path / "alone", tmp_path / "branch", alone)
    assert min(point.step for point in read_journal(tmp_path / "branch")) > 32


def test_a_longer_trunk_keeps_its_forks_and_drops_what_two_have_replaced(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trunk = run_on(tiny_corpus).trunk()
    for until in (10, 20, 31):
        train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=until, checkpoint_seconds=0.0)
    assert complete_steps(tmp_path) == [10, 20, 30, 31]


def test_a_fork_between_two_that_exist_leaves_the_journal_whole(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trunk = run_on(tiny_corpus).trunk()
    for until in (10, 30):
        train_segment(trunk, run_folder=tmp_path / "late", corpus=tiny_corpus, until_step=until)
    before = (tmp_path / "late" / "metrics.jsonl").read_bytes()
    train_segment(trunk, run_folder=tmp_path / "late", corpus=tiny_corpus, until_step=20)
    assert (tmp_path / "late" / "metrics.jsonl").read_bytes() == before
    train_segment(trunk, run_folder=tmp_path / "once", corpus=tiny_corpus, until_step=20)
    for name, weight in final_weights(tmp_path / "once", trunk).items():
        model = Llama(trunk.model)
        assert load_checkpoint(tmp_path / "late", 20, model) is not None
        assert torch.equal(weight, model.state_dict()[name])
    mark = read_checkpoint_mark(tmp_path / "late", 20)
    assert mark is not None
    assert [p.step for p in read_journal(tmp_path / "late", until_bytes=mark.journal_bytes)][-1] == 20


def test_a_checkpoint_on_the_way_to_such_a_fork_vouches_for_no_later_point(tiny_corpus: Corpus, tmp_path: Path) -> None:
    trunk = run_on(tiny_corpus).trunk()
    train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=30)
    with asked_to_leave_at(15), pytest.raises(Preempted):
        train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=20)
    mark = read_checkpoint_mark(tmp_path, 15)
    assert mark is not None
    assert [point.step for point in read_journal(tmp_path, until_bytes=mark.journal_bytes)] == [4, 8, 12]


def test_a_divergence_between_log_points_ends_the_run_before_it_is_saved(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0] * 17 + [math.nan] * 3)

    def step(*arguments: Any, **options: Any) -> StepResult:
        result = training_step(*arguments, **options)
        return result._replace(loss=torch.tensor(next(losses)))

    monkeypatch.setattr("llama.training_state.training_step", step)
    with pytest.raises(Diverged, match=r"^train loss nan and gradient norm [0-9.]+ at step 18 "):
        train_segment(
            run_on(tiny_corpus), run_folder=tmp_path, corpus=tiny_corpus, until_step=40, checkpoint_seconds=0.0
        )
    assert complete_steps(tmp_path) == [16, 17]
    assert read_status(tmp_path) is RunStatus.DIVERGED


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
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged.*put the file back, or remove"):
        train_segment(trunk, run_folder=tmp_path, corpus=tiny_corpus, until_step=32)


@pytest.mark.parametrize("damage", ["cut short", "a digit changed"])
def test_lost_points_are_made_again_from_the_checkpoint_before_them(
    tiny_corpus: Corpus, tmp_path: Path, damage: str
) -> None:
    trunk = run_on(tiny_corpus).trunk()
    for name, ends in {"whole": (16, 40), "hurt": (16, 32)}.items():
        for until_step in ends:
            train_segment(trunk, run_folder=tmp_path / name, corpus=tiny_corpus, until_step=until_step)
    journal = tmp_path / "hurt" / "metrics.jsonl"
    lines = journal.read_bytes()
    hurt = lines[:-9] if damage == "cut short" else lines[:-20] + bytes([lines[-20] ^ 1]) + lines[-19:]
    journal.write_bytes(hurt)
    with pytest.warns(UserWarning, match="going on from step 16"):
        result = train_segment(trunk, run_folder=tmp_path / "hurt", corpus=tiny_corpus, until_step=40)
    assert result.trained_steps == 24
    assert journalled(tmp_path / "hurt") == journalled(tmp_path / "whole")
    assert complete_steps(tmp_path / "hurt") == [16, 40]


def test_a_run_that_was_taken_over_stops_before_it_commits(
    tiny_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = TrainingState.update

    def overtaken(state: TrainingState, *arguments: Any, **options: Any) -> StepResult:
        if state.step == 20:
            owner = Owner(host="elsewhere", pid=1, process_start=0.0, attempt=2)
            write_record(tmp_path / "lease" / "000002.json", owner)
        return update(state, *arguments, **options)

    monkeypatch.setattr(TrainingState, "update", overtaken)
    with pytest.raises(Fenced):
        train_segment(run_on(tiny_corpus), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    assert complete_steps(tmp_path) == []
    assert not (tmp_path / DONE).exists()


def test_a_damaged_held_out_part_is_refused_before_anything_is_trained(tiny_corpus: Corpus, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_corpus.folder, tmp_path / "corpus")
    shard = shard_path(folder, "plain", "val")
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"plain\.val\.bin"):
        train_segment(run_on(tiny_corpus), run_folder=tmp_path / "run", corpus=open_corpus(folder), until_step=40)
    assert complete_steps(tmp_path / "run") == []


def test_the_wrong_corpus_or_folder_is_refused(tiny_corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs corpus"):
        train_segment(tiny_run(), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    narrow = tiny_model(vocab_size=299)
    with pytest.raises(UserError, match=r"vocab_size 299, but its corpus holds token ids up to 299: .* of 300 or more"):
        train_segment(run_on(tiny_corpus, model=narrow), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    train_segment(run_on(tiny_corpus), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
    with pytest.raises(UserError, match="another run's"):
        train_segment(run_on(tiny_corpus, seed=1), run_folder=tmp_path, corpus=tiny_corpus, until_step=40)
