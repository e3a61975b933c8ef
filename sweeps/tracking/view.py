"""The comparison that MLflow's UI opens on: loss against tokens and FLOPs, final loss against FLOPs and serving speed.

By default the UI folds children under their parent and draws ten runs. A shared view, which the UI reads from an experiment
tag, shows all of them. The tag's form is that of MLflow 3.17's UI; another version that doesn't know it shows its default.
"""

from __future__ import annotations

import colorsys
import json
import math
from typing import Any

from llama.metric_names import (
    FLOPS,
    PARAM_FLOPS,
    PARAM_TOKENS,
    TAG_BUDGET,
    TAG_HELD_OUT,
    TAG_OUTCOME,
    TAG_SIZE,
    TOKENS_PER_SECOND,
    TRAIN_LOSS,
    VAL_BPB,
    VAL_LOSS,
    inference_metric,
)

DECODE_SPEED = inference_metric("decode_tokens_per_second", saturated=True)
SHARE_KEY = "isoloss"
MOST_RUNS = 1000
DECADES_A_CYCLE = 1.6
"""Sizes that differ by this power of ten get the same hue; a ladder's steps of two lie a fifth of the circle apart."""


def comparison_path(experiment_id: str) -> str:
    """Where the comparison is in the UI, after the server's address."""
    query = f"viewStateShareKey={SHARE_KEY}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"/#/experiments/{experiment_id}/runs?{query}"


def experiment_tags() -> dict[str, str]:
    """Tags that make the UI ready: the shared view, and that this experiment is of model training, not GenAI."""
    charts = [
        _line("loss-tokens", TRAIN_LOSS, xAxisScaleType="log"),
        _line("loss-flops", TRAIN_LOSS, xAxisKey="metric", selectedXAxisMetricKey=FLOPS),
        _line("bpb-tokens", VAL_BPB, xAxisScaleType="log", displayPoints=True),
        _scatter("final-flops", FLOPS, VAL_LOSS),
        _scatter("loss-speed", DECODE_SPEED, VAL_LOSS),
    ]
    columns = ["attributes.`Dataset`"]
    columns += [f"tags.`{name}`" for name in (TAG_SIZE, TAG_BUDGET, TAG_OUTCOME, TAG_HELD_OUT)]
    columns += [f"params.`{name}`" for name in ("n_params", PARAM_TOKENS, PARAM_FLOPS, "seed")]
    columns += [f"metrics.`{name}`" for name in (VAL_LOSS, VAL_BPB, DECODE_SPEED, TOKENS_PER_SECOND)]
    section = {
        "uuid": SHARE_KEY,
        "name": "Scaling",
        "display": True,
        "isReordered": True,
        "columns": 2,
        "cardHeight": 420,
    }
    state = {
        "orderByKey": "tags.`mlflow.runName`",  # any order but by date shows children beside their parent
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": columns,
        "compareRunSections": [section],
        "compareRunCharts": charts,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
    }
    return {
        f"mlflow.sharedViewState.{SHARE_KEY}": json.dumps(state, separators=(",", ":")),
        "mlflow.experimentKind": "custom_model_development",
    }


def run_color(n_params: int) -> str:
    """A colour of the model's size alone, so that a trunk and its branches look alike: larger is darker within a hue cycle."""
    turn = math.log10(n_params) / DECADES_A_CYCLE % 1
    channels = colorsys.hls_to_rgb(turn, 0.60 - 0.28 * turn, 0.65)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)


def _card(uuid: str, kind: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "deleted": False,
        "isGenerated": False,
        "metricSectionId": SHARE_KEY,
        "runsCountToCompare": MOST_RUNS,
    }


def _line(uuid: str, metric: str, **settings: Any) -> dict[str, Any]:
    return _card(uuid, "LINE") | {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "displayPoints": False,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
        **settings,
    }


def _scatter(uuid: str, x_metric: str, y_metric: str) -> dict[str, Any]:
    axes = {"xaxis": {"key": x_metric, "type": "METRIC"}, "yaxis": {"key": y_metric, "type": "METRIC"}}
    return _card(uuid, "SCATTER") | axes
