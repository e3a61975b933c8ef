"""Checkpoints: written under a temporary name, synced, renamed, and marked complete last with their SHA-256.

Weights and optimiser state are safetensors: nothing is ever unpickled. A checkpoint without a mark does not exist; one whose
bytes do not match its mark is passed over, with a warning, for the one before, which is there for that. Each file says in its
header which run and step it is of, so that a damaged mark shows, and another run's checkpoint in the folder is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import torch
from torch import Tensor

from llama.atomic_files import sync_folder
from llama.errors import UserError
from llama.model import Llama
from llama.records import (
    CHECKPOINTS,
    COMPLETE,
    CONFIG,
    CheckpointMark,
    checkpoint_folder,
    complete_steps,
    read_checkpoint_mark,
    read_config,
    write_record,
)
from llama.tensor_file import read_tensors, write_tensors

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"

_HEADER = "checkpoint"


class Carried(Protocol):
    """What a checkpoint carries beside weights and optimiser: tensors under names that nothing else has."""

    def tensors(self) -> dict[str, Tensor]: ...

    def fill(self, tensors: Mapping[str, Tensor]) -> None: ...


def save_checkpoint(
    run_folder: Path,
    model: Llama,
    optimizer: torch.optim.AdamW,
    carried: Sequence[Carried],
    *,
    run_key: str,
    step: int,
    tokens: int,
    journal_bytes: int,
    journal_sha256: str | None = None,
    training_seconds: float,
    kept: bool,
) -> CheckpointMark:
    """Write everything that a resume needs. A failure part-way (a full disk) leaves earlier checkpoints as they were, and
    nothing of its own.
    """
    final = checkpoint_folder(run_folder, step)
    temporary = final.with_name(f".{final.name}.{uuid4().hex}")
    state = _named_optimizer_state(model, optimizer)
    for part in carried:
        state |= part.tensors()
    facts: dict[str, Any] = {
        "step": step,
        "tokens": tokens,
        "journal_bytes": journal_bytes,
        "training_seconds": training_seconds,
        "kept": kept,
    }
    # The model's file depends on the config and the step alone: equal runs have equal bytes.
    files = {
        MODEL_FILE: (model.state_dict(), _header(run_key, step=step)),
        OPTIMIZER_FILE: (state, _header(run_key, **facts)),
    }
    is_ours = False
    try:
        if not final.parent.exists():
            final.parent.mkdir(parents=True)
            sync_folder(run_folder)
        temporary.mkdir()
        sha256 = {name: write_tensors(temporary / name, *content) for name, content in files.items()}
        mark = CheckpointMark(**facts, journal_sha256=journal_sha256, sha256=sha256)
        if final.exists():  # unmarked, or its bytes were bad: this one replaces it
            drop_checkpoint(run_folder, step)
        temporary.rename(final)
        is_ours = True
        sync_folder(final.parent)
        write_record(final / COMPLETE, mark)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_ours:
            drop_checkpoint(run_folder, step)
        raise
    return mark


def load_checkpoint(
    run_folder: Path,
    step: int,
    model: Llama,
    optimizer: torch.optim.AdamW | None = None,
    carried: Sequence[Carried] = (),
) -> CheckpointMark | None:
    """Fill the model (and optimiser and what is carried) from the checkpoint at `step`; None where it is absent or not what
    was written, and then none is touched.

    Raises:
        UserError: it is whole but another run's, or the folder is no run's.
    """
    mark = read_checkpoint_mark(run_folder, step)
    if mark is None or mark.step != step:
        return None
    config = read_config(run_folder)
    if config is None:
        raise UserError(f"{run_folder / CONFIG} is missing: it says whose checkpoints these are")
    folder = checkpoint_folder(run_folder, step)
    weights = _read_verified(folder / MODEL_FILE, mark, _header(config.key, step=step))
    state: dict[str, Tensor] | None = {}
    if optimizer is not None:
        facts = mark.model_dump(exclude={"sha256", "journal_sha256"})
        state = _read_verified(folder / OPTIMIZER_FILE, mark, _header(config.key, **facts))
    if weights is None or state is None:
        return None
    try:
        model.load_state_dict(weights)
        if optimizer is not None:
            _fill_optimizer(model, optimizer, state)
        for part in carried:
            part.fill(state)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{folder} holds another model than {run_folder.name}: {error}") from None
    return mark


def load_latest(
    run_folder: Path,
    model: Llama,
    optimizer: torch.optim.AdamW | None = None,
    carried: Sequence[Carried] = (),
    *,
    at_most_step: float = math.inf,
) -> CheckpointMark | None:
    """The newest good checkpoint at or before a step. Warns of each that is passed over."""
    for step in reversed(complete_steps(run_folder)):
        if step <= at_most_step:
            mark = load_checkpoint(run_folder, step, model, optimizer, carried)
            if mark is not None:
                return mark
            folder = checkpoint_folder(run_folder, step)
            if folder.exists():  # not one that its owner dropped just now
                warnings.warn(f"{folder} is damaged, and passed over for what was saved before it", stacklevel=2)
    return None


def load_weights(run_folder: Path, model: Llama) -> CheckpointMark:
    """Fill a model from the run's newest good checkpoint, for decoding, evaluation and export.

    Raises:
        UserError: there is none.
    """
    mark = load_latest(run_folder, model)
    if mark is None:
        raise UserError(f"{run_folder / CHECKPOINTS} holds no complete checkpoint: launch the run again to make one")
    return mark


def drop_checkpoint(run_folder: Path, step: int) -> None:
    """Remove a checkpoint; its mark goes first, so that a half-removed one is never read."""
    folder = checkpoint_folder(run_folder, step)
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def drop_replaced(run_folder: Path, *, newest_step: int) -> None:
    """Remove what two newer ones have replaced: beside the newest stays the one before it, for the case that the newest is
    damaged. Checkpoints after `newest_step` are let be.
    """
    for step in [step for step in complete_steps(run_folder) if step <= newest_step][:-2]:
        mark = read_checkpoint_mark(run_folder, step)
        if mark is None or not mark.kept:
            drop_checkpoint(run_folder, step)


def clear_leftovers(run_folder: Path, *, newest_step: int, until_step: int) -> None:
    """Remove what killed attempts left: half-written checkpoints, replaced ones, and those up to `until_step` that were
    passed over for the one at `newest_step`, since the journal goes on from there. The caller holds the run's lease.
    """
    for folder in (run_folder / CHECKPOINTS).glob("*step-*"):
        if folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)
            continue
        step = int(folder.name.removeprefix("step-"))
        if newest_step < step <= until_step or not (folder / COMPLETE).exists():
            drop_checkpoint(run_folder, step)
    drop_replaced(run_folder, newest_step=newest_step)


def _named_optimizer_state(model: Llama, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    return {
        f"{slot}.{name}": value
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state[parameter].items()
    }


def _fill_optimizer(model: Llama, optimizer: torch.optim.AdamW, state: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        moments = {slot: state[f"{slot}.{name}"].to(parameter.device) for slot in ("step", "exp_avg", "exp_avg_sq")}
        if not moments["exp_avg"].shape == moments["exp_avg_sq"].shape == parameter.shape:
            raise KeyError(f"optimiser state of {name} has shape {tuple(moments['exp_avg'].shape)}")
        optimizer.state[parameter] = moments


def _header(run_key: str, **facts: float) -> dict[str, str]:
    """A file's own words on what it is, as safetensors take them: one entry, since they write several in any order."""
    return {_HEADER: json.dumps({"run_key": run_key, **facts})}


def _read_verified(path: Path, mark: CheckpointMark, header: Mapping[str, str]) -> dict[str, Tensor] | None:
    """A file's tensors; None where its bytes are not the marked ones, or the mark is not the one it was written with.

    Raises:
        UserError: it is whole but another run's.
    """
    try:
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != mark.sha256.get(path.name):
                return None
            tensors, found = read_tensors(file)
    except (OSError, ValueError):
        return None
    run_keys = [json.loads(words.get(_HEADER, "{}")).get("run_key") for words in (header, found)]
    if run_keys[0] != run_keys[1]:
        raise UserError(
            f"{path} is of run {run_keys[1]}, but the folder is run {run_keys[0]}'s: "
            f"remove {path.parent} to go on from the checkpoint before"
        )
    return tensors if found == header else None
