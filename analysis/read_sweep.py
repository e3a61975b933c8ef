"""Runs and curves from a sweep's folder, through the run folder's contract in `llama.records`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from analysis.results import Array
from analysis.table import LossCurve, RunTable, make_frame
from llama.accounting import count_parameters
from llama.config import RunConfig, digest
from llama.errors import UserError
from llama.records import (
    FAILURE,
    SWEEP_INDEX,
    TRAIN_LOSS,
    VAL_BPB,
    VAL_LOSS,
    Done,
    Failure,
    InferenceCost,
    RunStatus,
    SweepIndex,
    SweepRun,
    read_config,
    read_done,
    read_inference,
    read_journal,
    read_record,
    read_status,
)


def read_index(folder: Path) -> SweepIndex:
    """The sweep's index.

    Raises:
        UserError: the folder holds none.
    """
    index = read_record(folder / SWEEP_INDEX, SweepIndex)
    if index is None:
        raise UserError(f"{folder} is not a sweep's folder: it has no {SWEEP_INDEX}")
    return index


def read_sweep(folder: Path) -> RunTable:
    """Branches and stand-alone runs of a sweep, one row each; trunks are no finished runs and are left to `read_curves`.

    A shape's inference cost is measured once, on any of its runs, and holds for all runs of that shape.
    """
    index, runs_folder = read_index(folder), folder.resolve().parent.parent / "runs"
    rows: list[dict[str, Any]] = []
    configs: dict[str, RunConfig] = {}
    costs: dict[str, InferenceCost] = {}
    warnings: list[str] = []
    for run in index.runs:
        row: dict[str, Any] = {
            "run_id": run.key,
            "name": run.name,
            "flops_budget": run.flops_budget,
            "held_out": run.held_out,
        }
        try:
            row |= _read_run(runs_folder / run.key, run, configs)
        except UserError as error:
            row |= {"status": RunStatus.FAILED.value, "excluded": f"unreadable: {error}"}
        if not run.is_trunk:
            rows.append(row)
        try:
            cost = read_inference(runs_folder / run.key)
        except UserError as error:
            warnings.append(f"the inference cost of {run.name} is unreadable: {error}")
            cost = None
        if cost is not None and run.key in configs:
            costs.setdefault(_shape(configs[run.key]), cost)
    inference = {key: costs[_shape(config)] for key, config in configs.items() if _shape(config) in costs}
    for row in rows:
        if row["run_id"] in inference:
            row |= inference_columns(inference[row["run_id"]])
    return RunTable(
        source=f"sweep {index.sweep}",
        frame=make_frame(rows),
        inference={row["run_id"]: inference[row["run_id"]] for row in rows if row["run_id"] in inference},
        warnings=tuple(warnings),
    )


def _shape(config: RunConfig) -> str:
    return config.model.model_dump_json()


def _read_run(folder: Path, run: SweepRun, configs: dict[str, RunConfig]) -> dict[str, Any]:
    """Columns of one run; its config is noted in `configs`."""
    config = read_config(folder)
    if config is None:
        return {"status": RunStatus.ABSENT.value, "excluded": "not started"}
    configs[run.key] = config
    counts = count_parameters(config.model)
    design = config.model_dump(mode="json", exclude={"seed", "parent"})
    row: dict[str, Any] = {
        "group": run.trunk or run.key,
        "design": digest(design)[:16],
        "seed": config.seed,
        "d_model": config.model.d_model,
        "n_layers": config.model.n_layers,
        "peak_lr": config.recipe.peak_lr,
        "n_tokens": config.tokens,
        **counts._asdict(),
    }
    status = read_status(folder)
    row["status"] = status.value
    if status is RunStatus.FINISHED:
        done = read_done(folder)
        assert done is not None
        row |= _finished(config, done)
    elif status is RunStatus.DIVERGED:
        done = read_done(folder)
        row["excluded"] = f"diverged: {done.reason if done else 'no reason given'}"
    elif status is RunStatus.FAILED:
        failure = read_record(folder / FAILURE, Failure)
        row["excluded"] = f"failed: {failure.kind}: {failure.message}" if failure else "failed"
    else:
        row["excluded"] = "unfinished"
    return row


def _finished(config: RunConfig, done: Done) -> dict[str, Any]:
    loss = done.metrics.get(VAL_LOSS)
    row: dict[str, Any] = {"n_tokens": done.tokens, "flops": done.flops, "loss": loss, "bpb": done.metrics.get(VAL_BPB)}
    if loss is None:
        row["excluded"] = "finished without a final validation loss"
    elif not loss > 0:
        row["excluded"] = f"loss is {loss:g}, which is no cross-entropy"
    for name, value in done.metrics.items():
        if name.startswith("val/") and name.endswith("/bpb") and name != VAL_BPB:
            row["bpb/" + name.removeprefix("val/").removesuffix("/bpb")] = value
    row["training_threads"], row["gpu_share"] = getattr(done, "threads", 1), getattr(done, "gpu_share", 0.0)
    own_tokens = (done.step - (config.fork_step or 0)) * config.batch_tokens
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
    """Journals of every run and trunk of the sweep that has one."""
    index, runs_folder = read_index(folder), folder.resolve().parent.parent / "runs"
    curves = []
    for run in index.runs:
        config = read_config(runs_folder / run.key)
        if config is None:
            continue
        train: list[tuple[float, float]] = []
        val: list[tuple[float, float]] = []
        for point in read_journal(runs_folder / run.key):
            for name, series in ((TRAIN_LOSS, train), (VAL_LOSS, val)):
                value = point.metrics.get(name)
                if value is not None:
                    series.append((point.tokens, value))
        if train or val:
            train_GX, val_GX = _columns(train), _columns(val)
            curves.append(
                LossCurve(
                    run_id=run.key,
                    name=run.name,
                    kind="trunk" if run.is_trunk else "branch" if run.trunk else "run",
                    trunk=run.trunk,
                    n_params=float(count_parameters(config.model).n_params),
                    train_tokens_G=train_GX[0],
                    train_loss_G=train_GX[1],
                    val_tokens_G=val_GX[0],
                    val_loss_G=val_GX[1],
                )
            )
    return tuple(curves)


def _columns(pairs: list[tuple[float, float]]) -> Array:
    return np.array(pairs, dtype=np.float64).reshape(-1, 2).T
