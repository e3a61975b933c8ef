"""Runs and curves from a sweep's folder, through the run folder's contract in `llama.records`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic_core import from_json

from analysis.results import Array
from analysis.runs.conditions import TOKENS_PER_PARAM, rows_that_meet
from analysis.runs.suspect_runs import suspect_warning
from analysis.runs.table import WHOLE_SCHEDULE, LossCurve, RunTable, make_frame
from llama.accounting import count_parameters, training_flops_per_token
from llama.config import RunConfig, digest
from llama.errors import UserError
from llama.metric_names import SKIPPED_UPDATES, TRAIN_LOSS, UNIQUE_TOKENS, VAL_BPB, VAL_LOSS
from llama.records import (
    FAILURE,
    JOURNAL,
    Done,
    Failure,
    InferenceCost,
    RunStatus,
    read_config,
    read_done,
    read_inference,
    read_journal,
    read_record,
)
from llama.sweep_index import SWEEP_INDEX, SweepIndex, SweepRun


def read_index(folder: Path) -> SweepIndex:
    """The sweep's index.

    Raises:
        UserError: the folder holds none.
    """
    index = read_record(folder / SWEEP_INDEX, SweepIndex)
    if index is None:
        raise UserError(f"{folder} is not a sweep's folder: it has no {SWEEP_INDEX}")
    return index


def read_sweep(folder: Path, where: Iterable[str] = ()) -> RunTable:
    """Branches and stand-alone runs of a sweep, one row each; trunks are no finished runs and are left to `read_curves`.

    A shape's inference cost is measured once, on any of its runs, and holds for all runs of that shape. A run that was
    started but is not finished has the N, tokens and FLOPs that it was planned with, so that it can be forecast; one that was
    not started its N and tokens.

    Raises:
        UserError: the folder is no sweep's, or none of its runs meets the conditions, which name columns of the table or
            `tokens_per_param`.
    """
    index, storage = read_index(folder), folder.resolve().parent.parent
    rows: list[dict[str, Any]] = []
    configs: dict[str, RunConfig] = {}
    costs: dict[str, InferenceCost] = {}
    warnings: list[str] = []
    for run in index.runs:
        row, config = read_run(storage / "runs" / run.key, run)
        if config is not None:
            configs[run.key] = config
        if not run.is_trunk:
            rows.append(row)
        try:
            cost = read_inference(storage / "runs" / run.key)
        except UserError as error:
            warnings.append(f"the inference cost of {run.name} is unreadable: {error}")
            cost = None
        if cost is not None and run.key in configs:
            costs.setdefault(_shape(configs[run.key]), cost)
    shapes = {key: _shape(config) for key, config in configs.items()} if costs else {}
    inference = {key: costs[shape] for key, shape in shapes.items() if shape in costs}
    train_tokens = _train_tokens(storage / index.corpus_folder)
    for row in rows:
        if row["run_id"] in inference:
            row |= inference_columns(inference[row["run_id"]])
        # A branch that was not started draws from what its trunk draws from.
        config = configs.get(row["run_id"]) or configs.get(row["group"])
        if config is not None and row["n_tokens"] is not None:
            unique = row.get("unique_tokens") or _unique_tokens(config, row["planned_tokens"], *train_tokens)
            row["unique_tokens"] = unique if unique is not None and unique < row["n_tokens"] else None
    frame = make_frame(rows)
    suspect = suspect_warning(frame)
    frame = frame[_rows_that_meet(where, frame, f"sweep {index.sweep}")].reset_index(drop=True)
    return RunTable(
        source=f"sweep {index.sweep}",
        frame=frame,
        inference={run_id: inference[run_id] for run_id in frame["run_id"] if run_id in inference},
        warnings=(*warnings, *([suspect] if suspect else [])),
    )


def _rows_that_meet(where: Iterable[str], frame: pd.DataFrame, source: str) -> NDArray[np.bool_]:
    def column(name: str) -> pd.Series | None:
        return frame["n_tokens"] / frame["n_params"] if name == TOKENS_PER_PARAM else frame.get(name)

    return rows_that_meet(where, len(frame), column=column, names=lambda: [*map(str, frame.columns)], source=source)


def _train_tokens(corpus_folder: Path) -> tuple[str, dict[str, int]]:
    """The corpus' digest and its training tokens by domain; none where it is no longer there."""
    from llama.data.corpus import MANIFEST, CorpusManifest

    try:
        manifest = read_record(corpus_folder / MANIFEST, CorpusManifest)
    except (UserError, OSError):
        manifest = None
    if manifest is None:
        return "", {}
    return manifest.digest, {name: domain.train_tokens for name, domain in manifest.domains.items()}


def _unique_tokens(config: RunConfig, tokens: int, corpus_digest: str, train_tokens: dict[str, int]) -> float | None:
    """Distinct tokens that a run sees, as the run itself notes them when it ends; None where that can't be known."""
    from llama.data.repetition import repetition

    weights = config.data.weights
    if config.data.corpus_digest != corpus_digest or not set(weights) <= set(train_tokens):
        return None
    context_length = config.model.context_length
    try:
        return repetition(train_tokens, weights, context_length=context_length, tokens=tokens).unique_tokens
    except UserError:  # a domain shorter than a sequence, which this run can't have been trained on
        return None


def _shape(config: RunConfig) -> str:
    return config.model.model_dump_json()


def read_run(folder: Path, run: SweepRun) -> tuple[dict[str, Any], RunConfig | None]:
    """A RunTable row of one run, and its config where it has begun; without inference, which goes by shape."""
    row: dict[str, Any] = {
        "run_id": run.key,
        "name": run.name,
        "group": run.trunk or run.key,
        "flops_budget": run.flops_budget,
        "held_out": run.held_out,
        "n_params": run.n_params,
        "n_tokens": run.tokens,
        "planned_tokens": run.tokens,
    }
    try:
        config = read_config(folder)
        if config is None:
            return row | {"status": RunStatus.ABSENT.value, "excluded": "unstarted"}, None
        return row | _begun(folder, config), config
    except UserError as error:
        return row | {"status": RunStatus.FAILED.value, "excluded": f"unreadable: {error}"}, None


def _begun(folder: Path, config: RunConfig) -> dict[str, Any]:
    counts = count_parameters(config.model)
    design = config.model_dump(mode="json", exclude={"seed", "parent"})
    row: dict[str, Any] = {
        "design": digest(design)[:16],
        "seed": config.seed,
        "d_model": config.model.d_model,
        "n_layers": config.model.n_layers,
        "peak_lr": config.recipe.peak_lr,
        "n_tokens": config.tokens,
        "planned_tokens": config.tokens,
        **counts._asdict(),
    }
    if config.tokens is not None:
        row["flops"] = float(config.tokens * training_flops_per_token(config.model))
    # As `llama.records.read_status` decides, with each file read once.
    done = read_done(folder)
    if done is not None and done.outcome == "finished":
        return row | {"status": RunStatus.FINISHED.value} | _finished(config, done)
    if done is not None:
        return row | {"status": RunStatus.DIVERGED.value, "excluded": f"diverged: {done.reason or 'no reason given'}"}
    failure = read_record(folder / FAILURE, Failure)
    if failure is not None:
        excluded = f"failed: {failure.kind}: {failure.message}"
        return row | {"status": RunStatus.FAILED.value, "excluded": excluded}
    return row | {"status": RunStatus.STARTED.value, "excluded": "unfinished"}


def _finished(config: RunConfig, done: Done) -> dict[str, Any]:
    loss = done.metrics.get(VAL_LOSS)
    row: dict[str, Any] = {"n_tokens": done.tokens, "flops": done.flops, "loss": loss, "bpb": done.metrics.get(VAL_BPB)}
    if loss is None:
        row["excluded"] = "missing: finished without a final validation loss"
    elif not loss > 0:
        row["excluded"] = f"invalid: loss is {loss:g}, which is no cross-entropy"
    elif done.tokens < WHOLE_SCHEDULE * (config.tokens or 0):
        row["excluded"] = f"mid-schedule: stopped at {done.tokens:,} of {config.tokens:,} planned tokens"
    for name, value in done.metrics.items():
        if name.startswith("val/") and name.endswith("/bpb") and name != VAL_BPB:
            row["bpb/" + name.removeprefix("val/").removesuffix("/bpb")] = value
    row["unique_tokens"] = done.metrics.get(UNIQUE_TOKENS)
    row["skipped_updates"] = done.metrics.get(SKIPPED_UPDATES)
    row["training_threads"], row["gpu_share"] = getattr(done, "threads", 1), getattr(done, "gpu_share", 0.0)
    own_tokens = config.own_tokens(done.step)
    if done.training_seconds > 0 and own_tokens > 0:
        row["tokens_per_second"] = own_tokens / done.training_seconds
        row["training_seconds"] = done.tokens / row["tokens_per_second"]
    return row


def inference_columns(cost: InferenceCost) -> dict[str, Any]:
    """A RunTable row's inference columns."""
    row: dict[str, Any] = {
        "decode_tokens_per_second": cost.saturated.decode_tokens_per_second,
        "prefill_tokens_per_second": cost.saturated.prefill_tokens_per_second,
        "saturation_batch": cost.saturated.batch,
    }
    for point in cost.points:
        if point.batch == 1:
            row["decode_tokens_per_second_batch_1"] = point.decode_tokens_per_second
            row["ttft_seconds"] = point.ttft_seconds.median
            row["tpot_seconds"] = point.tpot_seconds.median
    return row


def read_curves(folder: Path) -> tuple[LossCurve, ...]:
    """Journals of every run and trunk of the sweep that has one. A run that can't be read is said by `read_sweep`.

    Raises:
        UserError: the folder is no sweep's, or a journal is damaged before its last line.
    """
    index, runs_folder = read_index(folder), folder.resolve().parent.parent / "runs"
    curves = []
    for run in index.runs:
        try:
            config = read_config(runs_folder / run.key)
        except UserError:
            continue
        if config is None:
            continue
        train_XG, val_XG = _read_losses(runs_folder / run.key)
        if train_XG.size or val_XG.size:
            curves.append(
                LossCurve(
                    run_id=run.key,
                    name=run.name,
                    kind=run.kind,
                    trunk=run.trunk,
                    n_params=float(count_parameters(config.model).n_params),
                    train_tokens_G=train_XG[0],
                    train_loss_G=train_XG[1],
                    val_tokens_G=val_XG[0],
                    val_loss_G=val_XG[1],
                )
            )
    return tuple(curves)


def _read_losses(folder: Path) -> tuple[Array, Array]:
    """Tokens and loss of the journal's points, `[2, points]` of training and of validation.

    All lines are parsed at once and unchecked, four times as fast as `read_journal`, which is asked what is wrong when they
    don't hold what is looked for.
    """
    try:
        lines = (folder / JOURNAL).read_bytes().rpartition(b"\n")[0]
        points = from_json(b"[" + lines.replace(b"\n", b",") + b"]")
        pairs = [
            [(point["tokens"], loss) for point in points if (loss := point["metrics"].get(name)) is not None]
            for name in (TRAIN_LOSS, VAL_LOSS)
        ]
        train_XG, val_XG = (np.array(each, dtype=np.float64).reshape(-1, 2).T for each in pairs)
        return train_XG, val_XG
    except FileNotFoundError:
        return np.empty((2, 0)), np.empty((2, 0))
    except (ValueError, TypeError, KeyError, AttributeError):
        for _ in read_journal(folder):
            pass
        raise UserError(f"{folder / JOURNAL} is damaged") from None
