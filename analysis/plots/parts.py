"""What several pictures share: the runs with N under the fit's counting rule, words for captions, the law's loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd

from analysis.laws import get_law
from analysis.optima.optimum import compute_ridge
from analysis.plots.picture import Axis, Layer, Points, Shade
from analysis.plots.style import Unit, format_number, padded, size_colours
from analysis.results import Array, Band, Costs, Fit, Interval, Study

COUNTING_WORDS = {
    "n_params": "N counts all parameters",
    "n_params_non_embedding": "N counts all parameters but the input embedding and the head",
    "n_params_matmul": "N counts the weights of matrix products, the head included, the input embedding not",
}

OBJECTIVE_WORDS = {
    "huber_log": "Huber's loss of log residuals (delta {delta:g})",
    "lad_log": "least absolute log residuals",
    "lsq_log": "least squares of log residuals",
    "lsq": "least squares of residuals",
}

#: How far past the largest run the law's compute-optimal curves go, as a factor of compute.
_BEYOND = 10.0

DEMAND = Axis(column="demand_tokens", label="demand: tokens served", unit="count")

_MOST_NAMES = 12
_MOST_LOOKS = 48
_DOT_SIZE, _MANY_RUNS = 5.5, 200

_RUN_COLUMNS = [
    "run",
    "run_id",
    "seed",
    "n_params",
    "n_tokens",
    "flops",
    "flops_budget",
    "loss",
    "held_out",
    "mlflow_url",
]


def counting(study: Study) -> str:
    return study.fit.counting if study.fit else "n_params"


def counting_words(study: Study) -> str:
    """The sentence on N that stands in every caption."""
    return COUNTING_WORDS[counting(study)] + "."


def law_words(fit: Fit) -> str:
    """One sentence on the fit, for captions."""
    held_out = ""
    if fit.held_out:
        held_out = f"; held-out runs are {100 * fit.held_out.mean_abs_rel_error:.2g} % off on average"
    how = OBJECTIVE_WORDS.get(fit.objective, fit.objective).format(delta=fit.delta)
    return f"The {fit.law} law is fitted to {fit.n_runs} runs of {fit.n_sizes} sizes by {how}{held_out}."


def cost_words(costs: Costs) -> str:
    """Where costs came from, and their unit, as one sentence."""
    if costs.source == "measured":
        return f"Costs measured, in {costs.unit}."
    return (
        "Costs counted in FLOPs, none measured."
        if costs.unit == "FLOPs"
        else f"FLOPs counted and priced in {costs.unit}."
    )


def flops_words(study: Study) -> str:
    """How compute was counted where some runs don't state it; "" where all do."""
    stated = study.table.usable["flops"].notna()
    return "" if stated.all() else f" Compute of {int((~stated).sum())} runs: {study.train_flops.rule}."


def runs(study: Study) -> pd.DataFrame:
    """Usable runs as plotted points: `n_params` follows the fit's counting rule, `run` is the name, `flops` by the study's
    rule where a run states none."""
    frame = study.table.usable
    frame = frame[frame[counting(study)].notna()]
    n_params = frame[counting(study)].to_numpy(dtype=np.float64)
    by_rule = frame["n_tokens"] * study.train_flops(n_params)
    frame = frame.assign(n_params=n_params, run=frame["name"], flops=frame["flops"].fillna(by_rule))
    return frame[_RUN_COLUMNS].sort_values(["n_params", "n_tokens", "run_id"], ignore_index=True)


def counted(study: Study) -> dict[float, float]:
    """All parameters of each size -> N under the fit's counting rule."""
    frame = study.table.usable
    return dict(zip(frame["n_params"].astype(float), frame[counting(study)].astype(float), strict=True))


def legend_names(values: Iterable[float], unit: Unit = "count") -> dict[float, str]:
    """Texts of the values that the legend names: all of a few, else evenly picked ones from the first to the last."""
    distinct = sorted(set(values))
    return {distinct[k]: format_number(distinct[k], unit) for k in evenly(len(distinct), _MOST_NAMES)}


def colours_by_size(study: Study) -> dict[float, str]:
    return size_colours(study.table.usable[counting(study)].astype(float))


def law_ridge(study: Study) -> Band:
    """The law's N_opt from the smallest run's compute to well past the largest one's, with its band; to be asked where the
    study has the optima of its budgets."""
    assert study.fit is not None
    flops = runs(study)["flops"]
    low, high = float(flops.min()), float(flops.max()) * _BEYOND
    return compute_ridge(study.fit, study.train_flops, low, high)


def fitted_flops(study: Study) -> Interval:
    """Least and largest compute of a fitted run."""
    table = runs(study)
    flops = table.loc[~table["held_out"], "flops"]
    return Interval(lo=float(flops.min()), hi=float(flops.max()))


def flops_per_token(study: Study) -> dict[float, float]:
    """Training FLOPs a token of each size: the median of its runs."""
    frame = runs(study)
    ratio = (frame["flops"] / frame["n_tokens"]).groupby(frame["n_params"]).median().dropna()
    return dict(zip(ratio.index.to_numpy(dtype=float).tolist(), ratio.tolist(), strict=True))


def final_points(table: pd.DataFrame, *, colours: dict[float, str], named: bool) -> list[Layer]:
    """Finished runs as dots in their size's colour, held-out ones hollow; `named` puts the sizes into the legend.

    Where almost every run has a size of its own, neighbouring sizes share a look: no eye tells more shades apart.
    """
    sizes = sorted(colours)
    groups = np.array_split(np.array(sizes), min(len(sizes), _MOST_LOOKS)) if sizes else []
    names = legend_names(float(group[0]) for group in groups) if named else {}
    look_of = {float(size): k for k, group in enumerate(groups) for size in group}
    parts = dict(iter(table.groupby([table["n_params"].map(look_of), table["held_out"]])))
    dot = _DOT_SIZE if len(table) <= _MANY_RUNS else 0.6 * _DOT_SIZE
    only_held_out = {k for k in range(len(groups)) if (k, False) not in parts}
    named_held_out = any(float(groups[k][0]) in names for k in only_held_out)
    layers: list[Layer] = []
    for k, group in enumerate(groups):
        name = names.get(float(group[0]))
        for held_out in (False, True):
            part = parts.get((k, held_out))
            if part is None:
                continue
            layers.append(
                Points(
                    table=part,
                    series="held-out run" if held_out else "run",
                    colour=colours[float(group[len(group) // 2])],
                    hollow=held_out,
                    size=dot,
                    legend=_held_out_name(name, k in only_held_out, named_held_out) if held_out else name,
                )
            )
    return layers


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the indices below `count`, evenly picked, the first and the last among them."""
    return sorted({round(float(place)) for place in np.linspace(0, max(0, count - 1), min(count, most))})


def _held_out_name(name: str | None, only_held_out: bool, named_elsewhere: bool) -> str | None:
    """A size without fitted runs is named with its hollow dots; one nameless entry stands for all others."""
    if only_held_out and name is not None:
        return f"{name} held out"
    return None if named_elsewhere else "held out"


def law_loss(fit: Fit, n_params: Array | float, n_tokens: Array | float) -> Array:
    """The fitted law's loss in nats a token, broadcast over N and D."""
    law = get_law(fit.law)
    return law.predict(law.as_vector(fit.params), n_params, n_tokens)


def outside(fitted: Interval, *, along: Literal["x", "y"], label: str = "extrapolated") -> list[Shade]:
    """The ground below and above a fitted range, named on the upper side."""
    return [
        Shade(along=along, start=None, end=fitted.lo, label=""),
        Shade(along=along, start=fitted.hi, end=None, label=label),
    ]


def log_grid(low: float, high: float, count: int = 121) -> Array:
    return np.geomspace(low, high, count)


def roomy_limits(mid: Array, low: Array, high: Array, *, factor: float = 3.0) -> tuple[float, float]:
    """Log limits that hold a curve, and its band as far as a factor beyond the curve's own ends."""
    least, most = _extent(mid)
    bottom, _ = _extent(np.append(low, least))
    _, top = _extent(np.append(high, most))
    return padded(max(bottom, least / factor), min(top, most * factor), log=True)


def _extent(values: Array) -> tuple[float, float]:
    """The least and the largest of the numbers that a log axis has a place for."""
    placed = values[np.isfinite(values) & (values > 0)]
    return (float(placed.min()), float(placed.max())) if len(placed) else (1.0, 10.0)
