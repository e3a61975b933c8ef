"""The packages that fits are timed against, each used as its own documentation recommends.

- `chinchilla` (Takano): BFGS in extended precision from a grid of starts. The grid is the one of its TIPS.md and of its LLM
  example: five slices an axis, E from 1.4 up to the least loss. Its `log_huber` (private, so written out here) is "the original
  loss function used in the Chinchilla paper". Averaged over runs at delta 1e-3 it is so flat that BFGS, whose stop rule is
  absolute, ends early; so it is measured a second time over delta^2, the same objective in a unit where the rule bites later.
- `simple-scaling-laws` (McDermott): variable projection and least squares of losses, bootstrap by its own rule.

Both are left to their defaults where nothing is said here. Neither is charged for pictures.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Judge = Callable[[dict[str, float], Path], dict[str, float]]
DELTA = 1e-3


def fit_chinchilla(runs: Path, *, slices: int, clock: Callable[[], float], judge: Judge) -> dict[str, Any]:
    try:
        from chinchilla import Chinchilla
    except ImportError as error:
        return absent(error)

    def documented(measured: Any, predicted: Any) -> Any:
        off = np.abs(np.log(measured) - np.log(predicted))
        return np.where(off < DELTA, off**2 / 2, DELTA * (off - DELTA / 2))

    def rescaled(measured: Any, predicted: Any) -> Any:
        return documented(measured, predicted) / DELTA**2

    n_params, n_tokens, loss = columns(runs)
    grid = {
        "E": np.linspace(1.4, loss.min(), slices),
        **dict.fromkeys(("a", "b"), np.linspace(1, 10, slices)),
        **dict.fromkeys(("alpha", "beta"), np.linspace(0.1, 0.7, slices)),
    }
    grids = {}
    for name, loss_fn in (("log_huber", documented), ("log_huber over delta^2", rescaled)):
        with tempfile.TemporaryDirectory() as folder:
            with (Path(folder) / "df.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["C", "N", "D", "loss"])
                writer.writerows(zip(6 * n_params * n_tokens, n_params, n_tokens, loss, strict=True))
            contender = Chinchilla(folder, param_grid=grid, loss_fn=loss_fn, log_level=50)
            contender.visualizer.optim = lambda *args, **kwargs: None
            started = clock()
            contender.fit()
            spent = clock() - started
        params = {key: float(value) for key, value in contender.params.items()}
        grids[name] = {
            "starts": slices**5,
            "cpu_seconds": spent,
            "params": params,
            "objectives": judge(params, runs),
        }
    return {"grids": grids}


def fit_simple_scaling_laws(
    runs: Path,
    *,
    resamples: int,
    repeats: int,
    repeat: Callable[[Callable[[], object], int], dict[str, Any]],
    judge: Judge,
) -> dict[str, Any]:
    try:
        import polars
        from simple_scaling_laws import fit
    except ImportError as error:
        return absent(error)

    n_params, n_tokens, loss = columns(runs)
    size, data, target = "model_size__n_params", "dataset_size__n_tokens", "test_loss__nats"
    table = polars.DataFrame(
        {
            "training_run_id": [f"run-{row}" for row in range(len(loss))],
            size: n_params,
            data: n_tokens,
            target: loss,
        }
    )
    # One draw is the least it makes; the first call also imports what it needs.
    model = fit(table, n_draws=1, seed=0)
    params = raw_params(model.params(target), model.observed_domain[size], model.observed_domain[data])
    return {
        "fit_cpu_seconds": repeat(lambda: fit(table, n_draws=1, seed=0), repeats),
        "bootstrap_cpu_seconds": repeat(lambda: fit(table, n_draws=resamples, seed=0), repeats),
        "resamples": resamples,
        "params": params,
        "objectives": judge(params, runs),
    }


def raw_params(params: dict[str, float], size: dict[str, float], data: dict[str, float]) -> dict[str, float]:
    """Amplitudes over the table's reference scales, in parameters and tokens instead."""
    return {
        "E": params["E"],
        "A": params["A"] * size["reference"] ** params["alpha"],
        "B": params["B"] * data["reference"] ** params["beta"],
        "alpha": params["alpha"],
        "beta": params["beta"],
    }


def absent(error: ImportError) -> dict[str, Any]:
    return {"absent": f"{error}; pip install 'isoloss[peers]' (simple-scaling-laws wants Python 3.12)"}


def columns(runs: Path) -> tuple[Any, Any, Any]:
    from benchmarks.fit import read_table

    return read_table(runs)
