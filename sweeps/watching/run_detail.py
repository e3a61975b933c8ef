"""One run of a sweep in detail: who worked at it and how that ended, what lies in its folder, its journal's last points."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from llama.accounting import count_parameters
from llama.config import RunConfig
from llama.errors import UserError
from llama.lease import tenures
from llama.metric_names import TRAIN_LOSS, VAL_LOSS
from llama.records import COMPLETE, Record, checkpoint_folder, complete_steps, read_config, read_journal
from sweeps.storage import SweepFolder
from sweeps.watching.status import RunState, SweepStatus, death_words
from sweeps.words import human
from sweeps.yaml_lines import nearest

LAST_POINTS = 10


class RunAttempt(Record):
    """One process' time at the run."""

    number: int
    who: str
    end: str
    """`at work`, `left in good order`, or how it died."""


class LossPoint(Record):
    """One point of the journal."""

    step: int
    tokens: int
    unix_ms: int
    loss: float | None
    """Validation loss where the point has one, else training loss."""


class RunDetail(Record):
    """All that `isoloss status SWEEP --run NAME` tells."""

    run: RunState
    folder: str
    model: str
    """Its shape, counts and step in words; empty where it has not begun."""
    n_params: int | None
    n_params_non_embedding: int | None
    n_params_matmul: int | None
    planned_tokens: int | None
    attempts: list[RunAttempt]
    checkpoint_steps: list[int]
    checkpoint_age_seconds: float | None
    """Of the newest complete one that is still there."""
    disk_bytes: int
    last_points: list[LossPoint]


def run_detail(sweep: SweepFolder, status: SweepStatus, name: str) -> RunDetail:
    """The run that `status` names so, or whose key this is.

    Raises:
        UserError: the sweep has none of that name, or its files are damaged.
    """
    run = next((run for run in status.runs if name in (run.name, run.key)), None)
    if run is None:
        hint = nearest(name, [run.name for run in status.runs])
        raise UserError(f"--run {name}: sweep {status.sweep} has no such run{hint}; isoloss status lists them")
    folder = sweep.storage.run(run.key)
    config = read_config(folder)
    counts = None if config is None else count_parameters(config.model)
    steps = complete_steps(folder)
    planned = next(known.tokens for known in sweep.index.runs if known.key == run.key)
    return RunDetail(
        run=run,
        folder=str(folder),
        model="" if config is None else _model_words(config),
        n_params=None if counts is None else counts.n_params,
        n_params_non_embedding=None if counts is None else counts.n_params_non_embedding,
        n_params_matmul=None if counts is None else counts.n_params_matmul,
        planned_tokens=planned if config is None else config.tokens,
        attempts=_attempts(folder),
        checkpoint_steps=steps,
        checkpoint_age_seconds=_checkpoint_age_seconds(folder, steps),
        disk_bytes=_disk_bytes(folder),
        last_points=_last_points(folder),
    )


def _model_words(config: RunConfig) -> str:
    counts, model = count_parameters(config.model), config.model
    return (
        f"{counts.n_params:,} parameters ({counts.n_params_non_embedding:,} non-embedding, {counts.n_params_matmul:,} in "
        f"products): width {model.d_model}, {model.n_layers} layers; {human(config.batch_tokens)} tokens a step, peak "
        f"learning rate {config.recipe.peak_lr:.3g}, seed {config.seed}"
    )


def _attempts(folder: Path) -> list[RunAttempt]:
    said = {"held": "at work", "left": "left in good order"}
    return [
        RunAttempt(
            number=tenure.number,
            who="unknown" if tenure.owner is None else tenure.owner.name,
            end=said.get(tenure.end) or death_words(tenure),
        )
        for tenure in tenures(folder)
    ]


def _checkpoint_age_seconds(folder: Path, steps: list[int]) -> float | None:
    """Of the last of `steps` that a run at work has not deleted meanwhile."""
    for step in reversed(steps):
        try:
            return max(0.0, time.time() - (checkpoint_folder(folder, step) / COMPLETE).stat().st_mtime)
        except FileNotFoundError:
            continue
    return None


def _disk_bytes(folder: Path) -> int:
    """Of all files below, but for those that a run at work renames or deletes meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _last_points(folder: Path) -> list[LossPoint]:
    points = [
        LossPoint(step=point.step, tokens=point.tokens, unix_ms=point.unix_ms, loss=loss)
        for point in read_journal(folder)
        if (loss := point.metrics.get(VAL_LOSS) or point.metrics.get(TRAIN_LOSS)) is not None
    ]
    return points[-LAST_POINTS:]
