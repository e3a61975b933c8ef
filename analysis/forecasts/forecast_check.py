"""Frozen forecasts held against what was measured since."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.forecasts.freeze import SAME_RUN
from analysis.results import Array, CheckedForecast, Forecast, ForecastCheck, Frozen, FrozenRun
from analysis.runs.table import RunTable
from analysis.words import count
from llama.errors import UserError

#: A fitted run has changed when a number of it moved by more than this.
SAME_NUMBER = 1e-9


def check_forecasts(frozen: Frozen, table: RunTable) -> ForecastCheck:
    """Every forecast whose run has finished: predicted, measured, error, and whether it lies in the interval.

    Only forecasts made before the fact count in the errors and the coverage. A run is found by its id, or else by its N and D
    among runs that were not there when the law was frozen.

    Raises:
        UserError: the table has no finished run with the law's count.
    """
    table = table.at_the_best_rate()
    runs = table.finished
    runs = runs[runs[frozen.counting].notna()]
    if not len(runs):
        raise UserError(f"{table.source} has no finished run with {frozen.counting} to hold the forecasts against")
    n, d, loss = (runs[name].to_numpy(dtype=np.float64) for name in (frozen.counting, "n_tokens", "loss"))
    ids = runs["run_id"].to_numpy(dtype=str)
    names = runs["name"].to_numpy(dtype=str)
    old, changed = _known(frozen, ids, n, d, loss)
    rows: list[CheckedForecast] = []
    pending: list[str] = []
    # Learning rates that turned out worse say nothing about the law's forecast of the cell.
    barred = old | runs["run_id"].isin(table.off_rate).to_numpy()
    taken = barred.copy()
    by_id: dict[int, list[int]] = {}
    for number, one in enumerate(frozen.forecasts):
        found = np.flatnonzero((ids == one.run_id) & ~barred & _near(n, d, one.n_params, one.n_tokens))
        by_id[number] = found.tolist()
        taken[found] = True
    for number, one in enumerate(frozen.forecasts):
        found = np.array(by_id[number], dtype=np.intp)
        if not len(found):
            found = np.flatnonzero(~taken & _near(n, d, one.n_params, one.n_tokens))
            taken[found] = True
        if not len(found):
            if one.known_loss is None:
                pending.append(one.name)
            continue
        for i in found:
            rows.append(_row(one, ids[i], names[i], float(loss[i])))
            if one.known_loss is not None and abs(loss[i] / one.known_loss - 1) > SAME_NUMBER:
                changed.append(f"held-out run {ids[i]} had the loss {one.known_loss:.6g} and now has {loss[i]:.6g}")
    ahead = [row for row in rows if row.before_the_fact]
    known = [row for row in rows if not row.before_the_fact]
    error = np.abs([row.rel_error for row in ahead])
    return ForecastCheck(
        frozen=frozen,
        source=table.source,
        rows=tuple(rows),
        n=len(ahead),
        mean_abs_rel_error=float(error.mean()) if len(ahead) else None,
        max_abs_rel_error=float(error.max()) if len(ahead) else None,
        coverage=float(np.mean([row.inside for row in ahead])) if ahead else None,
        n_known=len(known),
        coverage_known=float(np.mean([row.inside for row in known])) if known else None,
        pending=tuple(pending),
        not_forecast=tuple(names[~taken]),
        fitted_runs=tuple(names[old]),
        changed=tuple(changed),
    )


def _known(
    frozen: Frozen, ids: NDArray[np.str_], n: Array, d: Array, loss: Array
) -> tuple[NDArray[np.bool_], list[str]]:
    """Which of the table's runs the frozen law had seen, and what has become of those that aren't as they were.

    A run that only moved to another row keeps its numbers and is known by them.
    """
    old = np.zeros(len(ids), dtype=np.bool_)
    changed: list[str] = []
    for run, was_fitted in [*((run, True) for run in frozen.fitted), *((run, False) for run in frozen.seen)]:
        same = (
            (np.abs(n / run.n_params - 1) <= SAME_NUMBER)
            & (np.abs(d / run.n_tokens - 1) <= SAME_NUMBER)
            & (np.abs(loss / run.loss - 1) <= SAME_NUMBER)
        )
        here = np.flatnonzero(ids == run.run_id)
        exact = here[same[here]] if len(here) else np.flatnonzero(same)
        if not len(exact):
            exact = np.flatnonzero(same)
        old[exact] = True
        if not len(exact):
            # The id with another cell's numbers is another run under a reused id, such as a row that moved.
            near = here[_near(n, d, run.n_params, run.n_tokens)[here]]
            old[near] = True
            if was_fitted:
                changed.append(_what_became(run, float(loss[near[0]]) if len(near) else None))
    return old, changed


def _what_became(run: FrozenRun, loss: float | None) -> str:
    if loss is None:
        return f"fitted run {run.run_id} ({count(run.n_params)} parameters, {count(run.n_tokens)} tokens) is gone"
    return f"fitted run {run.run_id} had the loss {run.loss:.6g} and now has {loss:.6g}, or its N or D moved"


def _near(n: Array, d: Array, n_params: float, n_tokens: float) -> NDArray[np.bool_]:
    return np.asarray((np.abs(n / n_params - 1) <= SAME_RUN) & (np.abs(d / n_tokens - 1) <= SAME_RUN))


def _row(one: Forecast, run_id: str, name: str, measured: float) -> CheckedForecast:
    return CheckedForecast(
        run_id=str(run_id),
        name=str(name),
        n_params=one.n_params,
        n_tokens=one.n_tokens,
        predicted=one.loss,
        ci95=one.ci95,
        kind=one.kind,
        measured=measured,
        rel_error=one.loss / measured - 1,
        inside=measured in one.ci95,
        before_the_fact=one.known_loss is None,
    )
