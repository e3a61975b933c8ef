"""Tables made from a known law, for tests that need runs but no folders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.laws.chinchilla import Chinchilla
from analysis.results import Array
from analysis.runs.table import RunTable, make_frame
from benchmarks.truth import BESIROGLU as BESIROGLU


def predict(truth: dict[str, float], n_params: Array, n_tokens: Array) -> Array:
    law = Chinchilla()
    return law.predict(law.as_vector(truth), n_params, n_tokens)


def spread_design(runs: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """N and D of a sound design: sizes over a factor of 300, 3 to 300 tokens a parameter."""
    n_params = np.exp(rng.uniform(np.log(5e7), np.log(1.6e10), runs)).round()
    return n_params, (n_params * np.exp(rng.uniform(np.log(3), np.log(300), runs))).round()


def make_table(
    n_params: Array,
    n_tokens: Array,
    loss: Array,
    *,
    groups: Sequence[str] | None = None,
    designs: Sequence[str] | None = None,
    held_out: Sequence[bool] | None = None,
    flops: Array | None = None,
    budgets: Array | None = None,
    unique_tokens: Array | None = None,
    planned_tokens: Array | None = None,
) -> RunTable:
    rows = [
        {
            "run_id": f"run-{i}",
            "name": f"run-{i}",
            "n_params": float(n_params[i]),
            "n_tokens": float(n_tokens[i]),
            "loss": float(loss[i]),
            "group": groups[i] if groups is not None else "",
            "design": designs[i] if designs is not None else "",
            "held_out": bool(held_out[i]) if held_out is not None else False,
            "flops": float(flops[i]) if flops is not None else None,
            "flops_budget": float(budgets[i]) if budgets is not None else None,
            "unique_tokens": float(unique_tokens[i]) if unique_tokens is not None else None,
            "planned_tokens": float(planned_tokens[i]) if planned_tokens is not None else None,
            "status": "finished",
        }
        for i in range(len(loss))
    ]
    return RunTable(source="made runs", frame=make_frame(rows))
