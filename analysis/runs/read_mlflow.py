"""Runs from an MLflow experiment, read in bulk: one that isoloss mirrored, or anybody's with its names mapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from analysis.runs.conditions import TOKENS_PER_PARAM, nearest, rows_that_meet
from analysis.runs.mlflow_uri import masked
from analysis.runs.read_file import ALSO, require_known, tokens_per_param
from analysis.runs.read_mlflow_store import CLIPPED, StoredRun, open_experiment, read_stored_runs
from analysis.runs.read_sweep import inference_columns
from analysis.runs.table import COLUMNS, REQUIRED, RunTable
from analysis.runs.tidy import KIND_OF_STATUS, tidy
from llama.errors import UserError
from llama.metric_names import (
    GPU_SHARE,
    PARAM_TOKENS,
    TAG_FLOPS_BUDGET,
    TAG_HELD_OUT,
    TAG_OUTCOME,
    TAG_REASON,
    TAG_RUN_KEY,
    TAG_RUN_KIND,
    TAG_TRUNK,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
    TRAINING_SECONDS,
    TRAINING_THREADS,
    UNIQUE_TOKENS,
    VAL_BPB,
    VAL_LOSS,
    inference_metric,
    inference_tag,
)
from llama.records import InferenceCost, InferencePoint, Quantiles, RunStatus

#: Kinds of run that are no finished model: the sweep's parent run and trunks.
NO_MODEL = ("sweep", "trunk")
#: Where isoloss's mirror keeps the columns that are not params of the same name.
HOMES = {
    "name": "tags.mlflow.runName",
    "run_id": f"tags.{TAG_RUN_KEY}",
    "group": f"tags.{TAG_TRUNK}",
    "flops_budget": f"tags.{TAG_FLOPS_BUDGET}",
    "held_out": f"tags.{TAG_HELD_OUT}",
    "status": f"tags.{TAG_OUTCOME}",
    "loss": f"metrics.{VAL_LOSS}",
    "bpb": f"metrics.{VAL_BPB}",
    "training_threads": f"metrics.{TRAINING_THREADS}",
    "gpu_share": f"metrics.{GPU_SHARE}",
    "decode_tokens_per_second": f"metrics.{inference_metric('decode_tokens_per_second', saturated=True)}",
    "prefill_tokens_per_second": f"metrics.{inference_metric('prefill_tokens_per_second', saturated=True)}",
    "saturation_batch": f"metrics.{inference_metric('batch', saturated=True)}",
    "decode_tokens_per_second_batch_1": f"metrics.{inference_metric('decode_tokens_per_second', saturated=False)}",
    "ttft_seconds": f"metrics.{inference_metric('ttft_seconds', saturated=False)}",
    "tpot_seconds": f"metrics.{inference_metric('tpot_seconds', saturated=False)}",
}
#: Names that only curves are read by, with their homes: a mapping of runs may hold them too.
CURVE_HOMES = {"train_loss": f"metrics.{TRAIN_LOSS}", "batch_tokens": "params.batch_tokens"}
#: Params that tell one model shape from another.
SHAPE_PARAMS = ("n_params", "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "context_length")
PARTS = ("params", "metrics", "tags")
#: Where what a run was set up with stands, MLflow's own tags aside: metrics are what came out.
SETTINGS, OWN_TAGS = ("params.", "tags."), "tags.mlflow."
SHOWN = 12
OUTCOMES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "unfinished", "RUNNING": "unfinished"}


def read_mlflow(tracking_uri: str, experiment: str, columns: Mapping[str, str], where: Iterable[str] = ()) -> RunTable:
    """Branches and stand-alone runs of an experiment. `columns` maps a RunTable column to `params.x`, `metrics.x` or `tags.x`.

    A condition of `where` names one of those, or a RunTable column, or `tokens_per_param`.

    Raises:
        UserError: the store can't be read, has no such experiment, no run of it has the columns that a fit needs, or no run
            meets the conditions.
    """
    homes = homes_of(columns)
    opened = open_experiment(tracking_uri, experiment)
    found = read_stored_runs(opened)
    runs = [run for run in found if run.tags.get(TAG_RUN_KIND) not in NO_MODEL]
    if not runs:
        raise UserError(f"the experiment {experiment!r} holds no runs")
    for name in REQUIRED:
        if not any(values_of(runs, homes[name])):
            raise UserError(_missing(experiment, name, homes[name], runs))
    runs = _that_meet(where, runs, homes, experiment)
    texts = {name: values_of(runs, home) for name, home in homes.items()}
    _fill(texts, runs, columns)
    # A shape is measured on one of its runs, perhaps a trunk, and the figures hold for all of them.
    costs = {_shape(run): cost for run in found if (cost := _inference(run)) is not None}
    for i, run in enumerate(runs):
        if _shape(run) in costs:
            for name, value in inference_columns(costs[_shape(run)]).items():
                texts[name][i] = repr(value)
    for domain in sorted({key for run in runs for key in run.metrics if _is_domain_bpb(key)}):
        texts["bpb/" + domain.removeprefix("val/").removesuffix("/bpb")] = values_of(runs, f"metrics.{domain}")
    if tracking_uri.startswith("http"):
        page = f"{masked(tracking_uri).rstrip('/')}/#/experiments/{opened.id}/runs"
        texts["mlflow_url"] = [f"{page}/{run.id}" for run in runs]
    settings = [home for home in sorted(names_of(runs)) if home.startswith(SETTINGS) and home not in homes.values()]
    frame, said = tidy(
        {name: pd.Series(values, dtype="str") for name, values in texts.items()},
        others={
            home: pd.Series(values_of(runs, home), dtype="str") for home in settings if not home.startswith(OWN_TAGS)
        },
    )
    return RunTable(
        source=f"MLflow experiment {experiment}",
        frame=frame,
        inference={
            str(run_id): costs[_shape(run)]
            for run_id, run in zip(frame["run_id"], runs, strict=True)
            if _shape(run) in costs
        },
        warnings=said,
    )


def homes_of(columns: Mapping[str, str]) -> dict[str, str]:
    """Where each RunTable column is found: as mapped, else where isoloss's mirror keeps it.

    Raises:
        UserError: the mapping names no column, or a home that is none.
    """
    require_known(columns, also=CURVE_HOMES)
    for name, home in columns.items():
        part, _, key = home.partition(".")
        if part not in PARTS or not key:
            raise UserError(f"{name} is mapped to {home!r}: write params.NAME, metrics.NAME or tags.NAME")
    return {name: columns.get(name) or HOMES.get(name, f"params.{name}") for name in COLUMNS if name != "row"}


def values_of(runs: Sequence[StoredRun], home: str) -> list[str]:
    """The text of `params.x`, `metrics.x` or `tags.x` of each run; empty where a run has none."""
    part, _, key = home.partition(".")
    if part == "metrics":
        return ["" if (value := run.metrics.get(key)) is None else _number(value) for run in runs]
    return (
        [run.params.get(key, "").strip() for run in runs]
        if part == "params"
        else [run.tags.get(key, "").strip() for run in runs]
    )


def _number(value: float) -> str:
    return repr(value) if abs(value) < CLIPPED or value != value else "inf"


def _that_meet(
    where: Iterable[str], runs: list[StoredRun], homes: Mapping[str, str], experiment: str
) -> list[StoredRun]:
    there = names_of(runs)

    def column(name: str) -> pd.Series | None:
        if name in there or name in homes:
            return pd.Series(values_of(runs, name if name in there else homes[name]), dtype="str")
        if name == TOKENS_PER_PARAM:
            n, d = (pd.Series(values_of(runs, homes[each]), dtype="str") for each in ("n_params", "n_tokens"))
            return tokens_per_param(n, d)
        return None

    source = f"the experiment {experiment!r}"
    met = rows_that_meet(where, len(runs), column=column, names=lambda: sorted(there), source=source)
    return [run for run, is_met in zip(runs, met, strict=True) if is_met]


def names_of(runs: Iterable[StoredRun]) -> set[str]:
    """Every `params.x`, `metrics.x` and `tags.x` that some run has."""
    return {f"{part}.{key}" for run in runs for part in PARTS for key in getattr(run, part)}


def _missing(experiment: str, name: str, home: str, runs: list[StoredRun]) -> str:
    there = sorted(names_of(runs))
    near = nearest(home, there, ALSO.get(name, ()))
    shown = [
        *([near] if near else []),
        *(each for each in there if each != near and not each.startswith("tags.mlflow.")),
    ]
    return (
        f"no run of the experiment {experiment!r} has {home!r}, which {name} is read from; "
        + (f"the nearest is {near!r}. " if near else "")
        + f"It has {', '.join(shown[:SHOWN])}{' ...' if len(shown) > SHOWN else ''}. Map the right one with "
        f"columns={{{name!r}: {near or 'params....'!r}}} (--map {name}={near or 'params....'})"
    )


def _fill(texts: dict[str, list[str]], runs: list[StoredRun], columns: Mapping[str, str]) -> None:
    """Columns that follow from several params or tags, unless they were mapped."""
    for i, run in enumerate(runs):
        params, tags = run.params, run.tags
        if not texts["run_id"][i]:
            texts["run_id"][i] = run.id
        outcome = (texts["status"][i] or OUTCOMES.get(run.status, "unfinished")).lower()
        texts["status"][i] = outcome
        if outcome != RunStatus.FINISHED.value:
            kind = KIND_OF_STATUS.get(outcome, "unfinished")
            texts["excluded"][i] = kind + (f": {tags[TAG_REASON]}" if tags.get(TAG_REASON) else "")
        if TAG_RUN_KEY in tags:
            # A run of isoloss's mirror, whose params say what was planned.
            texts["group"][i] = texts["group"][i] or tags[TAG_RUN_KEY]
            texts["planned_tokens"][i] = texts["planned_tokens"][i] or params.get(PARAM_TOKENS, "")
            unique = run.metrics.get(UNIQUE_TOKENS)
            if (
                unique is not None
                and "unique_tokens" not in columns
                and unique < float(params.get(PARAM_TOKENS, "nan"))
            ):
                texts["unique_tokens"][i] = repr(unique)
            if not texts["design"][i]:
                texts["design"][i] = "|".join(f"{key}={params[key]}" for key in sorted(params) if key != "seed")
        if "tokens_per_second" not in columns:
            speed = _speed(run)
            if speed:
                texts["tokens_per_second"][i] = repr(speed)
                if texts["n_tokens"][i] and "training_seconds" not in columns:
                    texts["training_seconds"][i] = repr(float(params.get("n_tokens", "nan")) / speed)


def _speed(run: StoredRun) -> float | None:
    """Training tokens a second over the run's own steps, else the last one logged."""
    params, metrics = run.params, run.metrics
    own_seconds = metrics.get(TRAINING_SECONDS, 0.0)
    if own_seconds > 0 and "steps" in params and "batch_tokens" in params:
        steps = int(params["steps"]) - int(params.get("fork_step", "0"))
        return steps * int(params["batch_tokens"]) / float(own_seconds)
    logged = metrics.get(TOKENS_PER_SECOND)
    return float(logged) if logged else None


def _is_domain_bpb(key: str) -> bool:
    return key.startswith("val/") and key.endswith("/bpb") and key != VAL_BPB


def _shape(run: StoredRun) -> tuple[str, ...]:
    """The model's shape, as its params say it."""
    return tuple(run.params.get(name, "") for name in SHAPE_PARAMS)


def _inference(run: StoredRun) -> InferenceCost | None:
    """The serving cost at batch 1 and at saturation; None where it isn't there in full."""
    metrics, tags = run.metrics, run.tags

    def point(batch: int, saturated: bool) -> InferencePoint:
        def read(field: str) -> float:
            return float(metrics[inference_metric(field, saturated=saturated)])

        ttft, tpot = read("ttft_seconds"), read("tpot_seconds")
        return InferencePoint(
            batch=batch,
            ttft_seconds=Quantiles(median=ttft, p5=ttft, p95=ttft),
            tpot_seconds=Quantiles(median=tpot, p5=tpot, p95=tpot),
            prefill_tokens_per_second=read("prefill_tokens_per_second"),
            decode_tokens_per_second=read("decode_tokens_per_second"),
        )

    try:
        batch = int(metrics[inference_metric("batch", saturated=True)])
        points = [point(1, False)] if batch > 1 else []
        return InferenceCost(
            device=tags[inference_tag("device")],
            dtype=tags[inference_tag("dtype")],
            threads=int(tags[inference_tag("threads")]),
            prompt_tokens=int(tags[inference_tag("prompt_tokens")]),
            output_tokens=int(tags[inference_tag("output_tokens")]),
            repetitions=int(tags[inference_tag("repetitions")]),
            weight_bytes=int(metrics["inference/weight_bytes"]),
            kv_bytes_per_token=int(metrics["inference/kv_bytes_per_token"]),
            points=[*points, point(batch, True)],
        )
    except (KeyError, ValueError):
        return None
