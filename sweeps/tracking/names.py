"""What one run looks like in MLflow: its tags, params and single-valued metrics. Pure functions of a run folder's records.

Names that analysis reads back live in `llama.metric_names`; the rest, which only the mirror itself and people read, live here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama.accounting import count_parameters, training_flops_per_token
from llama.config import RunConfig
from llama.metric_names import (
    PARAM_FLOPS,
    PARAM_TOKENS,
    TAG_FLOPS_BUDGET,
    TAG_HELD_OUT,
    TAG_OUTCOME,
    TAG_REASON,
    TAG_RUN_KEY,
    TAG_RUN_KIND,
    TAG_SWEEP_ID,
    TAG_TRUNK,
    inference_metric,
    inference_tag,
)
from llama.records import CheckpointMark, InferenceCost, InferencePoint, RunStatus, checkpoint_folder
from llama.sweep_index import SweepIndex, SweepRun
from sweeps.tracking.view import comparison_path, run_color

KIND_SWEEP = "sweep"
"""`run.kind` of the parent run."""

#: Fields of InferenceCost that are metrics; the others are tags.
INFERENCE_NUMBERS = ("weight_bytes", "kv_bytes_per_token", "points")

# How far the mirror has come, kept on the MLflow run itself so that any launcher or sync can go on from there.
TAG_CURSOR = "mirror.journal"
"""Journal bytes that are all in MLflow, and the SHA-256 of those bytes: `48211 9f86d081884c7d65`."""
TAG_INFERENCE_DIGEST = "mirror.inference"
"""Digest of the inference.json whose numbers are in MLflow."""

TAG_MEMBER = "sweep.member"
"""`true`, or `false` on a run in MLflow's trash because the sweep no longer lists it."""

TAG_COMPLETE = "mirror.complete"
"""On the parent run: a digest of the run folders of which all is in MLflow."""

# On the parent run: what was worked out from the sweep.
TAG_REPORT = "report.digest"
"""Digest of the report whose files and numbers are there."""
TAG_ANSWER = "answer"
"""The report's headline."""

# On the experiment: which sweep folder it mirrors. Names may clash on a shared server, this does not.
TAG_MIRROR_ID = "mirror.id"


def sweep_tags(index: SweepIndex, experiment_id: str) -> dict[str, str]:
    """Tags of the parent run; the note is what its page in the UI begins with."""
    note = (
        f"Sweep **{index.sweep}**, {len(index.runs)} runs, trunks included. [All runs compared]"
        f"({comparison_path(experiment_id).removeprefix('/')}): MLflow's *step* is tokens seen."
    )
    return {
        TAG_RUN_KIND: KIND_SWEEP,
        TAG_SWEEP_ID: index.sweep_id,
        "mlflow.source.name": "isoloss",
        "mlflow.note.content": note,
    }


def run_tags(run: SweepRun, index: SweepIndex, config: RunConfig) -> dict[str, str]:
    """Tags that say which run this is; none of them changes while it trains."""
    tags = {
        TAG_SWEEP_ID: index.sweep_id,
        TAG_RUN_KEY: run.key,
        TAG_RUN_KIND: run.kind,
        TAG_MEMBER: "true",
        TAG_HELD_OUT: _text(run.held_out),
        "corpus.digest": config.data.corpus_digest,
        "mlflow.source.name": "isoloss",
        "mlflow.runColor": run_color(count_parameters(config.model).n_params),
        **run.tags,
    }
    if run.trunk is not None:
        tags[TAG_TRUNK] = run.trunk
    if run.flops_budget is not None:
        tags[TAG_FLOPS_BUDGET] = repr(run.flops_budget)
    return tags


def outcome_tags(outcome: RunStatus, reason: str, before: Mapping[str, str]) -> dict[str, str]:
    """How the run stands, given the tags it has: a reason that no longer holds is emptied, one that never was isn't set."""
    tags = {TAG_OUTCOME: outcome.value}
    return tags | {TAG_REASON: reason[:1000]} if reason or TAG_REASON in before else tags


def inference_tags(cost: InferenceCost) -> dict[str, str]:
    """On what and how the serving cost was measured."""
    return {inference_tag(field): str(value) for field, value in cost if field not in INFERENCE_NUMBERS}


def checkpoint_tags(folder: Path, mark: CheckpointMark) -> dict[str, str]:
    """Where the latest complete checkpoint lies and what its weights hash to: a link, not a copy."""
    return {
        "checkpoint.uri": checkpoint_folder(folder, mark.step).absolute().as_uri(),
        "checkpoint.step": str(mark.step),
        "checkpoint.sha256": mark.sha256.get("model.safetensors", ""),
    }


def run_params(config: RunConfig) -> dict[str, str]:
    """Every value that decides the run's numbers, and every count that follows from them, under flat names."""
    model, recipe = config.model, config.recipe
    values: dict[str, Any] = {
        **count_parameters(model)._asdict(),
        **model.model_dump(),
        "d_head": model.d_head,
        "recipe": recipe.name,
        **recipe.model_dump(exclude={"name", "transfer"}),
        **(recipe.transfer.model_dump() if recipe.transfer else {}),
        "batch_tokens": config.batch_tokens,
        "seed": config.seed,
        "dtype": config.dtype,
        "compile": config.compile,
        "micro_batch_sequences": config.micro_batch_sequences,
        "activation_checkpointing": config.activation_checkpointing,
        "attention_kernel": config.attention_kernel,
        "corpus_digest": config.data.corpus_digest,
        "validation_tokens": config.data.validation_tokens,
        **{f"weight/{domain}": weight for domain, weight in config.data.weights.items()},
    }
    if config.tokens is not None:
        values[PARAM_TOKENS] = config.tokens
        values[PARAM_FLOPS] = config.tokens * training_flops_per_token(model)
        values["steps"] = config.steps
    if config.fork_step is not None:
        values["fork_step"] = config.fork_step
    return {allowed(name): _text(value) for name, value in values.items()}


def inference_metrics(cost: InferenceCost) -> list[tuple[str, float, int]]:
    """(name, value, step) of a shape's serving cost: at batch 1, at saturation, and as curves whose step is the batch."""
    rows = [
        ("inference/weight_bytes", float(cost.weight_bytes), 0),
        ("inference/kv_bytes_per_token", float(cost.kv_bytes_per_token), 0),
    ]
    for point in cost.points:
        rows += [(f"inference/by_batch/{field}", value, point.batch) for field, value in _fields(point).items()]
        if point.batch == 1:
            rows += [(inference_metric(field, saturated=False), value, 0) for field, value in _fields(point).items()]
    if cost.points:
        best = {**_fields(cost.saturated), "batch": float(cost.saturated.batch)}
        rows += [(inference_metric(field, saturated=True), value, 0) for field, value in best.items()]
    return rows


def allowed(name: str) -> str:
    """`name` with what MLflow forbids in keys spelled as hexadecimal: domains are named by people."""
    return re.sub(r"[^\w./ -]", lambda match: f"_{ord(match[0]):x}_", name)


def _fields(point: InferencePoint) -> dict[str, float]:
    return {
        "ttft_seconds": point.ttft_seconds.median,
        "tpot_seconds": point.tpot_seconds.median,
        "prefill_tokens_per_second": point.prefill_tokens_per_second,
        "decode_tokens_per_second": point.decode_tokens_per_second,
    }


def _text(value: Any) -> str:
    """As a param or tag: booleans as JSON writes them, floats with every digit."""
    return str(value).lower() if isinstance(value, bool) else str(value)
