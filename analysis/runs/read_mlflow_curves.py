"""Loss against tokens from MLflow's metric histories, one bulk read a metric.

What is tokens, the first of these that a run has:
    a metric that `n_tokens` is mapped to (`{"n_tokens": "metrics.tokens_seen"}`), interpolated between its own steps;
    the step, in isoloss's own mirror, which logs by tokens seen;
    the step times the tokens of a batch (`params.batch_tokens`, or what `batch_tokens` is mapped to).
A run with none of them has no curve, and neither has one without N: what a step is worth isn't guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from analysis.results import Array
from analysis.runs.read_mlflow import CURVE_HOMES, homes_of, values_of
from analysis.runs.read_mlflow_store import History, StoredRun, open_experiment, read_history, read_stored_runs
from analysis.runs.table import LossCurve
from llama.errors import UserError
from llama.metric_names import TAG_RUN_KEY, TAG_RUN_KIND, TAG_TRUNK

METRICS = "metrics."
_NO_POINTS = (np.empty(0), np.empty(0))
_KINDS: dict[str, Literal["trunk", "branch", "run"]] = {"trunk": "trunk", "branch": "branch"}


def read_mlflow_curves(tracking_uri: str, experiment: str, columns: Mapping[str, str]) -> tuple[LossCurve, ...]:
    """Curves of every run and trunk of an experiment that has points.

    Raises:
        UserError: the store can't be read or has no such experiment, or `train_loss` is mapped to what is no metric.
    """
    homes = homes_of(columns) | CURVE_HOMES | dict(columns)
    if not homes["train_loss"].startswith(METRICS):
        raise UserError(f"train_loss is mapped to {homes['train_loss']!r}, which has no history: write metrics.NAME")
    opened = open_experiment(tracking_uri, experiment)
    runs = [run for run in read_stored_runs(opened) if run.tags.get(TAG_RUN_KIND) != "sweep"]
    n_params_n = _numbers(runs, homes["n_params"])
    names, run_ids = values_of(runs, homes["name"]), values_of(runs, homes["run_id"])
    train_n, val_n, seen_n = (
        _by_run(read_history(opened, home.removeprefix(METRICS), runs), len(runs)) if home.startswith(METRICS) else None
        for home in (homes["train_loss"], homes["loss"], homes["n_tokens"])
    )
    batch_tokens_n = _numbers(runs, homes["batch_tokens"])
    curves = []
    for number, run in enumerate(runs):
        tokens_a_step = 1.0 if TAG_RUN_KEY in run.tags else float(batch_tokens_n[number])
        seen = seen_n[number] if seen_n is not None else None
        (train_tokens_G, train_loss_G), (val_tokens_G, val_loss_G) = (
            _against_tokens(points_n[number] if points_n is not None else _NO_POINTS, tokens_a_step, seen)
            for points_n in (train_n, val_n)
        )
        if not n_params_n[number] > 0 or not (len(train_tokens_G) or len(val_tokens_G)):
            continue
        curves.append(
            LossCurve(
                run_id=run_ids[number] or run.id,
                name=names[number] or run_ids[number] or run.id,
                kind=_KINDS.get(run.tags.get(TAG_RUN_KIND, ""), "run"),
                trunk=run.tags.get(TAG_TRUNK),
                n_params=float(n_params_n[number]),
                train_tokens_G=train_tokens_G,
                train_loss_G=train_loss_G,
                val_tokens_G=val_tokens_G,
                val_loss_G=val_loss_G,
            )
        )
    return tuple(curves)


def _numbers(runs: list[StoredRun], home: str) -> Array:
    """`[runs]`: NaN where a run has no plain number there."""
    return pd.to_numeric(pd.Series(values_of(runs, home), dtype="str"), errors="coerce").to_numpy(dtype=np.float64)


def _by_run(history: History, n_runs: int) -> list[tuple[Array, Array]]:
    """Steps and values of each run."""
    ends_n = np.searchsorted(history.run_G, np.arange(n_runs + 1))
    step_G = history.step_G.astype(np.float64)
    return [(step_G[i:j], history.value_G[i:j]) for i, j in pairwise(ends_n)]


def _against_tokens(
    points: tuple[Array, Array], tokens_a_step: float, seen: tuple[Array, Array] | None
) -> tuple[Array, Array]:
    """Tokens and values of the points whose tokens are known."""
    step_G, value_G = points
    if seen is not None and len(seen[0]):
        tokens_G = np.interp(step_G, *seen, left=np.nan, right=np.nan)
    else:
        tokens_G = step_G * tokens_a_step
    known_G = tokens_G >= 0
    return tokens_G[known_G], value_G[known_G]
