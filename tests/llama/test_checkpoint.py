"""Checkpoints: every bit comes back, or the one before does; never anything else, whatever happened to the files."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama.checkpoint import (
    Carried,
    clear_leftovers,
    load_checkpoint,
    load_latest,
    load_weights,
    save_checkpoint,
)
from llama.config import RunConfig
from llama.errors import UserError
from llama.log_window import LogWindow
from llama.model import Llama
from llama.optimizer import make_optimizer
from llama.records import CONFIG, checkpoint_folder, complete_steps, write_record
from llama.spikes import SpikeFilter
from llama.training_step import StepResult, training_step
from tests.llama.shapes import tiny_model, tiny_run

RUN = tiny_run()
IGNORE_DAMAGED = pytest.mark.filterwarnings("ignore:.* is damaged, and passed over")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run_folder(tmp_path, RUN)


def run_folder(folder: Path, run: RunConfig) -> Path:
    folder.mkdir(exist_ok=True)
    write_record(folder / CONFIG, run)
    return folder


def trained(steps: int = 3, **shape: int) -> tuple[Llama, torch.optim.AdamW]:
    model = Llama(tiny_model(**shape))
    model.initialise(torch.Generator().manual_seed(0))
    optimizer = make_optimizer(model, RUN.recipe)
    tokens_BS = torch.randint(300, (2, 17), generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        training_step(model, optimizer, tokens_BS, micro_batch_sequences=2, learning_rate=1e-2, clip_norm=1.0)
    return model, optimizer


def save(
    folder: Path,
    model: Llama,
    optimizer: torch.optim.AdamW,
    step: int,
    *,
    carried: Sequence[Carried] = (),
    kept: bool = True,
) -> None:
    facts = {"step": step, "tokens": 64 * step, "journal_bytes": 0, "training_seconds": 1.0, "kept": kept}
    save_checkpoint(folder, model, optimizer, carried, run_key=RUN.key, **facts)


def assert_same_state(a: tuple[Llama, torch.optim.AdamW], b: tuple[Llama, torch.optim.AdamW]) -> None:
    for x, y in zip(a[0].parameters(), b[0].parameters(), strict=True):
        assert torch.equal(x, y)
        for slot, value in a[1].state[x].items():
            assert torch.equal(value, b[1].state[y][slot])


def test_a_checkpoint_restores_every_bit(folder: Path) -> None:
    saved, fresh = trained(3), trained(0)
    save(folder, *saved, step=3)
    mark = load_checkpoint(folder, 3, *fresh)
    assert mark is not None
    assert mark.tokens == 192
    assert_same_state(saved, fresh)


@IGNORE_DAMAGED
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "COMPLETE"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "pickle"])
def test_a_bad_checkpoint_falls_back_to_the_one_before(folder: Path, name: str, damage: str) -> None:
    good = trained(2)
    save(folder, *good, step=2)
    save(folder, *trained(5), step=5)
    path = checkpoint_folder(folder, 5) / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        path.write_bytes({"flip": flipped, "cut": data[: len(data) // 2], "pickle": b"\x80\x04N."}[damage])
    fresh = trained(0)
    mark = load_latest(folder, *fresh, [], at_most_step=5)
    assert mark is not None
    assert mark.step == 2
    assert_same_state(good, fresh)


def test_a_checkpoint_without_its_mark_does_not_exist(folder: Path) -> None:
    save(folder, *trained(2), step=2)
    (checkpoint_folder(folder, 2) / "COMPLETE").unlink()
    assert complete_steps(folder) == []
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_weights(folder, trained(0)[0])


def test_a_disk_that_fills_leaves_the_last_good_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(folder, *trained(2), step=2)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(folder, *trained(4), step=4)
    monkeypatch.undo()
    assert complete_steps(folder) == [2]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002"]


def test_another_models_checkpoint_is_refused_and_named(folder: Path) -> None:
    save(folder, *trained(2), step=2)
    with pytest.raises(UserError, match="holds another model"):
        load_checkpoint(folder, 2, *trained(0, d_ff=64))


def test_a_checkpoint_between_two_log_points_carries_the_window_and_the_memory_of_spikes(folder: Path) -> None:
    cpu = torch.device("cpu")
    window, spikes = LogWindow(cpu), SpikeFilter(6.0, cpu)
    for loss, grad_norm in ((3.0, 1.0), (4.0, 2.0), (math.nan, 3.0)):
        skipped = spikes.judge(torch.tensor(loss), torch.tensor(grad_norm))
        window.add(StepResult(torch.tensor(loss), torch.tensor(grad_norm), skipped))
    save(folder, *trained(2), step=2, carried=[window, spikes])
    restored, judge = LogWindow(cpu), SpikeFilter(6.0, cpu)
    assert load_checkpoint(folder, 2, *trained(0), [restored, judge]) is not None
    assert judge.counts() == (1, 1)
    assert str(judge.tensors()) == str(spikes.tensors())
    restored.add(StepResult(torch.tensor(5.0), torch.tensor(6.0), torch.tensor(0.0)))
    assert restored.close() == (4.0, 3.0)
    assert len(restored) == 0


def test_what_killed_attempts_left_is_cleared(folder: Path) -> None:
    for step, kept in ((2, True), (3, False), (4, False), (6, False), (8, False), (10, True), (12, False)):
        save(folder, *trained(1), step=step, kept=kept)
    half_written = folder / "checkpoints" / ".step-00000008.0123"
    half_written.mkdir()
    (checkpoint_folder(folder, 7)).mkdir()
    clear_leftovers(folder, newest_step=6, until_step=10)
    assert complete_steps(folder) == [2, 4, 6, 12]
    assert len(list((folder / "checkpoints").iterdir())) == 4


def test_another_runs_checkpoint_of_the_same_shape_is_refused_and_named(tmp_path: Path) -> None:
    ours, theirs = run_folder(tmp_path / "ours", tiny_run(seed=1)), run_folder(tmp_path / "theirs", RUN)
    save(theirs, *trained(2), step=2)
    shutil.copytree(theirs / "checkpoints", ours / "checkpoints")
    with pytest.raises(UserError, match=f"is of run {RUN.key}, but the folder is run {tiny_run(seed=1).key}'s"):
        load_checkpoint(ours, 2, *trained(0))
    with pytest.raises(UserError, match="is of run"):
        load_weights(ours, trained(0)[0])


def test_a_checkpoint_moved_to_another_step_does_not_count(folder: Path) -> None:
    good = trained(2)
    save(folder, *good, step=2)
    save(folder, *trained(4), step=4)
    checkpoint_folder(folder, 4).rename(checkpoint_folder(folder, 9))
    fresh = trained(0)
    with pytest.warns(UserWarning, match="step-00000009 is damaged, and passed over"):
        mark = load_latest(folder, *fresh, [], at_most_step=9)
    assert mark is not None
    assert mark.step == 2
    assert_same_state(good, fresh)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run_folder(tmp_path_factory.mktemp("fuzzed"), RUN)
    save(folder, *trained(2), step=2)
    save(folder, *trained(5), step=5)
    return folder


@IGNORE_DAMAGED
@given(
    name=st.sampled_from(["model.safetensors", "optimizer.safetensors", "COMPLETE"]),
    kind=st.sampled_from(["flip", "cut", "extend", "overwrite"]),
    where=st.floats(0, 1, exclude_max=True),
    near_start=st.booleans(),
    data=st.binary(min_size=1, max_size=40),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_to_the_newest_checkpoint_loads_wrong_weights(
    two_checkpoints: Path, name: str, kind: str, where: float, near_start: bool, data: bytes
) -> None:
    path = checkpoint_folder(two_checkpoints, 5) / name
    whole = path.read_bytes()
    at = int(where * min(len(whole), 2_000 if near_start else len(whole)))  # the header is the part with structure
    flipped = bytes([whole[at] ^ (data[0] or 1)])
    damaged = {
        "flip": whole[:at] + flipped + whole[at + 1 :],
        "cut": whole[:at],
        "extend": whole + data,
        "overwrite": whole[:at] + data + whole[at + len(data) :],
    }[kind]
    fresh = trained(0)
    try:
        path.write_bytes(damaged)
        mark = load_latest(two_checkpoints, *fresh, [], at_most_step=5)
    finally:
        path.write_bytes(whole)
    assert mark is not None
    # A mark that means the same, as with a blank at its end, is still good.
    assert mark.step == 2 or name == "COMPLETE" or damaged == whole
    assert (mark.tokens, mark.journal_bytes, mark.kept, mark.training_seconds) == (64 * mark.step, 0, True, 1.0)
    assert_same_state(trained(mark.step), fresh)
