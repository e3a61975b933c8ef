"""Runs from an MLflow experiment, in a few bulk searches: one that isoloss mirrored, or anybody's with its names mapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.read_file import REQUIRED, tidy
from analysis.read_sweep import inference_columns
from analysis.table import COLUMNS, RunTable
from llama.errors import UserError
from llama.records import (
    GPU_SHARE,
    TAG_FLOPS_BUDGET,
    TAG_HELD_OUT,
    TAG_OUTCOME,
    TAG_REASON,
    TAG_RUN_KEY,
    TAG_RUN_KIND,
    TAG_TRUNK,
    TOKENS_PER_SECOND,
    TRAINING_SECONDS,
    TRAINING_THREADS,
    VAL_BPB,
    VAL_LOSS,
    InferenceCost,
    InferencePoint,
    Quantiles,
    RunStatus,
    inference_metric,
    inference_tag,
)

PAGE = 1000
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
#: Params that tell one model shape from another.
SHAPE_PARAMS = ("n_params", "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff", "context_length")
OUTCOMES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "unfinished", "RUNNING": "unfinished"}


def read_mlflow(tracking_uri: str, experiment: str, columns: Mapping[str, str]) -> RunTable:
    """Branches and stand-alone runs of an experiment. `columns` maps a RunTable column to `params.x`, `metrics.x` or `tags.x`.

    Raises:
        UserError: the store can't be read, has no such experiment, or no run of it has the columns that a fit needs.
    """
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise UserError(f"{unknown[0]!r} is no column of the runs table; it has {', '.join(COLUMNS)}")
    found, experiment_id = _search(tracking_uri, experiment)
    runs = [run for run in found if run["tags"].get(TAG_RUN_KIND) not in NO_MODEL]
    if not runs:
        raise UserError(f"the experiment {experiment!r} of {tracking_uri} holds no runs")
    homes = {name: columns.get(name) or HOMES.get(name, f"params.{name}") for name in COLUMNS if name != "row"}
    for name in REQUIRED:
        if all(_value(run, homes[name]) == "" for run in runs):
            raise UserError(_missing(experiment, name, homes[name], runs))
    texts = {name: [_value(run, home) for run in runs] for name, home in homes.items()}
    _fill(texts, runs, columns)
    # A shape is measured on one of its runs, perhaps a trunk, and the figures hold for all of them.
    costs = {_shape(run): cost for run in found if (cost := _inference(run)) is not None}
    for i, run in enumerate(runs):
        if _shape(run) in costs:
            for name, value in inference_columns(costs[_shape(run)]).items():
                texts[name][i] = repr(value)
    for domain in sorted({key for run in runs for key in run["metrics"] if _is_domain_bpb(key)}):
        texts["bpb/" + domain.removeprefix("val/").removesuffix("/bpb")] = [
            _value(run, f"metrics.{domain}") for run in runs
        ]
    if tracking_uri.startswith("http"):
        texts["mlflow_url"] = [
            f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run['id']}" for run in runs
        ]
    frame = tidy({name: pd.Series(values, dtype="str") for name, values in texts.items()}, len(runs))
    frame["row"] = pd.array([pd.NA] * len(frame), dtype="Int64")
    return RunTable(
        source=f"MLflow experiment {experiment}",
        frame=frame,
        inference={
            run_id: costs[_shape(run)]
            for run_id, run in zip(frame["run_id"], runs, strict=True)
            if _shape(run) in costs
        },
    )


def _search(tracking_uri: str, experiment: str) -> tuple[list[dict[str, Any]], str]:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri)
        about = client.get_experiment_by_name(experiment)
        if about is None:
            known = ", ".join(repr(each.name) for each in client.search_experiments(max_results=20))
            raise UserError(f"{tracking_uri} has no experiment {experiment!r}; it has {known}")
        runs: list[dict[str, Any]] = []
        token: str | None = None
        while True:
            page = client.search_runs([about.experiment_id], max_results=PAGE, page_token=token)
            runs += [
                {
                    "id": run.info.run_id,
                    "status": run.info.status,
                    "params": run.data.params,
                    "metrics": run.data.metrics,
                    "tags": run.data.tags,
                }
                for run in page
            ]
            token = page.token
            if not token:
                return runs, str(about.experiment_id)
    except MlflowException as error:
        raise UserError(f"{tracking_uri} can't be read: {str(error).splitlines()[0]}") from None


def _value(run: dict[str, Any], home: str) -> str:
    """The text of `params.x`, `metrics.x` or `tags.x`; empty where the run has none."""
    kind, _, name = home.partition(".")
    value = run.get(kind, {}).get(name) if kind in ("params", "metrics", "tags") else None
    return "" if value is None else repr(value) if isinstance(value, float) else str(value).strip()


def _missing(experiment: str, name: str, home: str, runs: list[dict[str, Any]]) -> str:
    kind = home.partition(".")[0]
    there = sorted({f"{kind}.{key}" for run in runs[:100] for key in run.get(kind, {})})[:12]
    return (
        f"no run of the experiment {experiment!r} has {home!r}, which {name} is read from; map it to one of "
        f"{', '.join(there) or 'its params, metrics or tags'} (columns={{{name!r}: 'params....'}})"
    )


def _fill(texts: dict[str, list[str]], runs: list[dict[str, Any]], columns: Mapping[str, str]) -> None:
    """Columns that follow from several params or tags, unless they were mapped."""
    for i, run in enumerate(runs):
        params, tags = run["params"], run["tags"]
        if not texts["run_id"][i]:
            texts["run_id"][i] = run["id"]
        if not texts["group"][i] and TAG_RUN_KEY in tags:
            texts["group"][i] = tags[TAG_RUN_KEY]
        outcome = texts["status"][i] or OUTCOMES.get(run["status"], "unfinished")
        texts["status"][i] = outcome
        if outcome != RunStatus.FINISHED.value:
            texts["excluded"][i] = outcome + (f": {tags[TAG_REASON]}" if tags.get(TAG_REASON) else "")
        if not texts["design"][i] and TAG_RUN_KEY in tags:
            texts["design"][i] = "|".join(f"{key}={params[key]}" for key in sorted(params) if key != "seed")
        if "tokens_per_second" not in columns:
            speed = _speed(run)
            if speed:
                texts["tokens_per_second"][i] = repr(speed)
                if texts["n_tokens"][i] and "training_seconds" not in columns:
                    texts["training_seconds"][i] = repr(float(params.get("n_tokens", "nan")) / speed)


def _speed(run: dict[str, Any]) -> float | None:
    """Training tokens a second over the run's own steps, else the last one logged."""
    params, metrics = run["params"], run["metrics"]
    own_seconds = metrics.get(TRAINING_SECONDS, 0.0)
    if own_seconds > 0 and "steps" in params and "batch_tokens" in params:
        steps = int(params["steps"]) - int(params.get("fork_step", "0"))
        return steps * int(params["batch_tokens"]) / float(own_seconds)
    logged = metrics.get(TOKENS_PER_SECOND)
    return float(logged) if logged else None


def _is_domain_bpb(key: str) -> bool:
    return key.startswith("val/") and key.endswith("/bpb") and key != VAL_BPB


def _shape(run: dict[str, Any]) -> tuple[str, ...]:
    """The model's shape, as its params say it."""
    return tuple(run["params"].get(name, "") for name in SHAPE_PARAMS)


def _inference(run: dict[str, Any]) -> InferenceCost | None:
    """The serving cost at batch 1 and at saturation; None where it isn't there in full."""
    metrics, tags = run["metrics"], run["tags"]

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
