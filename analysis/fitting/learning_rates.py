"""Sizes whose learning rate sits far from the tuned one: their losses say what a bad rate costs, not what a size costs.

A rate is tuned where one size and length was tried at three rates or more and the best lies inside them: at the vertex of the
parabola in log rate through the best and its neighbours. Through two tuned sizes or more goes a power law lr(N) (as Kaplan et
al. 2020, appendix D.6, and every muP-less recipe since has one); a single tuned size speaks for itself alone. A best rate at
the edge of those tried tunes nothing, and is said to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.results import OffRate
from analysis.runs.table import RunTable
from analysis.words import count, number

#: A rate is far from the tuned one past this factor.
FAR = 2.0
#: Rates of one size and length that can show where the best one is.
MIN_RATES = 3
#: What makes a cell in which only the rate differs, beside N: as `RunTable.at_the_best_rate` groups runs.
SHAPE = ("d_model", "n_layers", "n_tokens")


@dataclass(frozen=True)
class _Tuned:
    n_params: float
    rate: float


@dataclass(frozen=True)
class _Edge:
    n_params: float
    rate: float
    side: str


def off_rate(table: RunTable, fitted: pd.DataFrame, counting: str) -> tuple[OffRate, ...]:
    """Sizes of the `fitted` runs that were trained far from the tuned rate, or only at the edge of the rates tried.

    `table` holds the runs at other rates too, as they were read or as `at_the_best_rate` left them.
    """
    runs = fitted.dropna(subset=["peak_lr"])
    runs = runs[runs["peak_lr"] > 0]
    if not len(runs):
        return ()
    tuned, edges = _studies(table, counting)
    by_size = {size: float(np.exp(np.log(rates).mean())) for size, rates in _rates_by_size(runs, counting).items()}
    sizes = np.array(sorted({study.n_params for study in tuned}))
    rates = np.array([np.exp(np.mean([np.log(s.rate) for s in tuned if s.n_params == size])) for size in sizes])
    flags = []
    for size, rate in by_size.items():
        here = rates[sizes == size]
        if len(sizes) >= 2:
            slope, level = np.polyfit(np.log(sizes), np.log(rates), 1)
            wanted = float(np.exp(level + slope * np.log(size)))
            source = f"lr(N) through the {len(sizes)} tuned sizes"
        elif len(here):
            wanted, source = float(here[0]), "this size's own tuning"
        else:
            continue
        if max(rate / wanted, wanted / rate) > FAR:
            beyond = "" if sizes.min() <= size <= sizes.max() else ", extrapolated in size"
            flags.append(
                OffRate(
                    n_params=size,
                    n_runs=int((runs[counting] == size).sum()),
                    peak_lr=rate,
                    tuned_lr=wanted,
                    reason=f"{count(size)} parameters were trained at a learning rate of {number(rate)}, "
                    f"{number(rate / wanted)}x the tuned {number(wanted)} ({source}{beyond})",
                )
            )
    flagged = {flag.n_params for flag in flags}
    for edge in edges:
        if edge.n_params in by_size and edge.n_params not in flagged and not (sizes == edge.n_params).any():
            flagged.add(edge.n_params)
            flags.append(
                OffRate(
                    n_params=edge.n_params,
                    n_runs=int((runs[counting] == edge.n_params).sum()),
                    peak_lr=by_size[edge.n_params],
                    tuned_lr=None,
                    reason=f"the best learning rate of {count(edge.n_params)} parameters, {number(edge.rate)}, is the "
                    f"{edge.side} of those tried: a {'higher' if edge.side == 'highest' else 'lower'} one may be better",
                )
            )
    return tuple(sorted(flags, key=lambda flag: flag.n_params))


def at_the_tuned_rates(table: RunTable, counting: str) -> RunTable:
    """The table without the sizes that were trained far from the tuned rate, held-out runs of theirs too.

    A best rate at the edge of those tried is known to be off by nothing, so such sizes stay.
    """
    usable = table.usable
    far = {flag.n_params: flag.reason for flag in off_rate(table, usable, counting) if flag.tuned_lr is not None}
    at = usable[counting].map(far).dropna()
    if not len(at):
        return table
    frame = table.frame.copy()
    frame.loc[at.index, "excluded"] = "off-rate: " + at
    return replace(table, frame=frame)


def rate_warnings(flags: tuple[OffRate, ...]) -> list[str]:
    """One warning a kind, since a recipe that is off is off at many sizes."""
    far = [flag for flag in flags if flag.tuned_lr is not None]
    edge = [flag for flag in flags if flag.tuned_lr is None]
    said = []
    if far:
        more = f"; and {len(far) - 3} more sizes" if len(far) > 3 else ""
        said.append(
            f"{'; '.join(flag.reason for flag in far[:3])}{more}: their losses may owe more to the rate than to the size"
        )
    if edge:
        more = f"; and {len(edge) - 3} more sizes" if len(edge) > 3 else ""
        said.append(f"{'; '.join(flag.reason for flag in edge[:3])}{more}")
    return said


def _rates_by_size(runs: pd.DataFrame, counting: str) -> dict[float, np.ndarray]:
    return {
        float(size): cell["peak_lr"].to_numpy(dtype=np.float64)  # type: ignore[arg-type]
        for size, cell in runs.groupby(counting)
    }


def _studies(table: RunTable, counting: str) -> tuple[list[_Tuned], list[_Edge]]:
    """What each size and length that was tried at several rates shows."""
    runs = table.finished.dropna(subset=["peak_lr", counting])
    runs = runs[runs["peak_lr"] > 0]
    tuned, edges = [], []
    shape = [counting, *SHAPE]
    several = runs.groupby(shape, dropna=False)["peak_lr"].transform("nunique") > 1
    for _, cell in runs[several].groupby(shape, dropna=False):
        mean_loss = cell.groupby("peak_lr")["loss"].mean().sort_index()
        rates, losses = mean_loss.index.to_numpy(dtype=np.float64), mean_loss.to_numpy(dtype=np.float64)
        size, best = float(cell[counting].iloc[0]), int(losses.argmin())
        if best in (0, len(rates) - 1):
            edges.append(_Edge(size, float(rates[best]), "lowest" if best == 0 else "highest"))
        elif len(rates) >= MIN_RATES:
            tuned.append(_Tuned(size, _vertex(rates[best - 1 : best + 2], np.log(losses[best - 1 : best + 2]))))
    return tuned, edges


def _vertex(rate_3: np.ndarray, log_loss_3: np.ndarray) -> float:
    """Where the parabola in log rate through three points, the middle one lowest, is least."""
    x = np.log(rate_3 / rate_3[1])
    left, right = (log_loss_3[0] - log_loss_3[1]) / x[0], (log_loss_3[2] - log_loss_3[1]) / x[2]
    bend = (right - left) / (x[2] - x[0])
    if not bend > 0:
        return float(rate_3[1])
    return float(rate_3[1] * np.exp(np.clip(-(left - bend * x[0]) / (2 * bend), x[0], x[2])))
