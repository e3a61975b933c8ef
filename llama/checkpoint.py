"""Checkpoints: written under a temporary name, synced, renamed, and marked complete last with their SHA-256.

Weights and optimiser state are safetensors: nothing is ever unpickled. A checkpoint without a mark does not exist; one whose
bytes do not match its mark is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from llama.errors import UserError
from llama.model import Llama
from llama.records import (
    CHECKPOINTS,
    COMPLETE,
    CheckpointMark,
    checkpoint_folder,
    complete_steps,
    read_checkpoint_mark,
    sync_folder,
    write_record,
)
from llama.window import Window

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"


def save_checkpoint(
    run_folder: Path,
    model: Llama,
    optimizer: torch.optim.AdamW,
    window: Window,
    *,
    step: int,
    tokens: int,
    journal_bytes: int,
    training_seconds: float,
    kept: bool,
) -> CheckpointMark:
    """Write everything that a resume needs. A failure part-way (a full disk) leaves earlier checkpoints as they were."""
    final = checkpoint_folder(run_folder, step)
    temporary = final.with_name(f".{final.name}.{uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        contents = {
            MODEL_FILE: save(_named_weights(model)),
            OPTIMIZER_FILE: save(_named_optimizer_state(model, optimizer) | window.tensors()),
        }
        for name, data in contents.items():
            _write_synced(temporary / name, data)
        if final.exists():  # unmarked, or its bytes were bad: this one replaces it
            (final / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(final)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(final.parent)
    mark = CheckpointMark(
        step=step,
        tokens=tokens,
        journal_bytes=journal_bytes,
        training_seconds=training_seconds,
        kept=kept,
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    )
    write_record(final / COMPLETE, mark)
    return mark


def load_checkpoint(
    run_folder: Path,
    step: int,
    model: Llama,
    optimizer: torch.optim.AdamW | None = None,
    window: Window | None = None,
) -> CheckpointMark | None:
    """Fill the model (and optimiser and window) from the checkpoint at `step`; None where it is absent or its bytes are not
    the marked ones, and then none is touched.

    Raises:
        UserError: the bytes are as marked but belong to another model.
    """
    mark = read_checkpoint_mark(run_folder, step)
    if mark is None:
        return None
    folder = checkpoint_folder(run_folder, step)
    weights = _read_verified(folder / MODEL_FILE, mark)
    state = _read_verified(folder / OPTIMIZER_FILE, mark) if optimizer is not None else {}
    if weights is None or state is None:
        return None
    try:
        model.load_state_dict(weights)
        if optimizer is not None:
            _fill_optimizer(model, optimizer, state)
        if window is not None:
            window.fill(state)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{folder} holds another model than {run_folder.name}: {error}") from None
    return mark


def load_latest(
    run_folder: Path, model: Llama, optimizer: torch.optim.AdamW, window: Window, *, at_most_step: int
) -> CheckpointMark | None:
    """The newest good checkpoint at or before a step."""
    for step in reversed(complete_steps(run_folder)):
        if step <= at_most_step:
            mark = load_checkpoint(run_folder, step, model, optimizer, window)
            if mark is not None:
                return mark
    return None


def load_weights(run_folder: Path, model: Llama) -> CheckpointMark:
    """Fill a model from the run's newest good checkpoint, for decoding, evaluation and export.

    Raises:
        UserError: there is none.
    """
    for step in reversed(complete_steps(run_folder)):
        mark = load_checkpoint(run_folder, step, model)
        if mark is not None:
            return mark
    raise UserError(f"{run_folder / CHECKPOINTS} holds no complete checkpoint: launch the run again to make one")


def drop_checkpoint(run_folder: Path, step: int) -> None:
    """Remove a checkpoint that a newer one replaced; its mark goes first, so that a half-removed one is never read."""
    folder = checkpoint_folder(run_folder, step)
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(run_folder: Path, *, newest_step: int) -> None:
    """Remove what killed attempts left: half-written checkpoints, and replaceable ones before the newest. The caller holds
    the run's lease.
    """
    for folder in (run_folder / CHECKPOINTS).glob("*step-*"):
        if folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        step = int(folder.name.removeprefix("step-"))
        mark = read_checkpoint_mark(run_folder, step)
        if mark is None or (not mark.kept and step < newest_step):
            drop_checkpoint(run_folder, step)


def _named_weights(model: Llama) -> dict[str, Tensor]:
    """Copies by name; a tied head is stored under both its names, since safetensors take no shared memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}


def _named_optimizer_state(model: Llama, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    return {
        f"{slot}.{name}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state[parameter].items()
    }


def _fill_optimizer(model: Llama, optimizer: torch.optim.AdamW, state: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        moments = {slot: state[f"{slot}.{name}"].to(parameter.device) for slot in ("step", "exp_avg", "exp_avg_sq")}
        if moments["exp_avg"].shape != parameter.shape:
            raise KeyError(f"optimiser state of {name} has shape {tuple(moments['exp_avg'].shape)}")
        optimizer.state[parameter] = moments


def _read_verified(path: Path, mark: CheckpointMark) -> dict[str, Tensor] | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != mark.sha256.get(path.name):
        return None
    try:
        return load(data)
    except SafetensorError:
        return None


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
