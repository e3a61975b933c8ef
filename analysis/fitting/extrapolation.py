"""How well this law, on these runs, predicts other ones: fit some, predict those beyond, and carry the error forward.

`expanding_window` fits windows of the runs with least training compute (N D) and predicts every larger run, held-out ones too;
then windows of the runs up to some ratio D/N, or down to one, and predicts those beyond: whoever serves a model trains it at
more tokens a parameter than a study of the compute optimum holds, often at no more compute. From the errors follows how log
error grows with either distance, sd^2 = s^2 + (g_C ln distance)^2 + (g_R ln ratio)^2 with s the residuals' sd and each g by
maximum likelihood from its own windows; `forecast` widens the bootstrap's interval by it. Windows hold fewer runs than the
whole fit, and runs beyond a window in compute are often beyond it in D/N as well: the growths err on the wide side.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.fit import fit as fit_table
from analysis.fitting.outliers import beyond_the_kept
from analysis.intervals import Z95, interval
from analysis.laws import get_law
from analysis.laws.base import Array
from analysis.laws.repeating import with_repetition
from analysis.results import (
    Extrapolation,
    Fit,
    Interval,
    LossForecast,
    RatioExtrapolation,
    RatioWindow,
    Window,
    WindowForecast,
)
from analysis.runs.table import RunTable
from analysis.words import number
from llama.errors import UserError

#: Windows tried at most, spread evenly over the runs in order of compute, and of D/N in either direction.
MAX_WINDOWS, MAX_RATIO_WINDOWS = 8, 4
#: Values that are equal but for rounding are in one window.
SAME = 1 + 1e-9
#: Candidates of the growth g, relative to the largest error seen.
GROWTHS = np.concatenate([[0.0], np.geomspace(1e-4, 2.0, 200)])


class _Tried(NamedTuple):
    """A window of the runs of least x."""

    limit: float
    n_runs: int
    n_predicted: int
    rms: float | None
    skipped: str | None


def expanding_window(
    table: RunTable, fit: Fit, *, windows: int = MAX_WINDOWS, ratio_windows: int = MAX_RATIO_WINDOWS
) -> Extrapolation:
    """Forecasts of the runs beyond by laws fitted to those within, as `fit` was fitted to all of `table`.

    At most so many windows of compute, and so many of D/N in either direction, are tried; one fit each.

    Windows that can't identify the law are in the record with the reason. Outliers that were dropped are in no window; they
    are predicted where they lie beyond all runs that stayed, since a law that fails at an edge makes outliers there.

    Raises:
        UserError: no window of compute can be fitted.
    """
    table, usable = table.at_the_best_rate(), _as_fitted(table.at_the_best_rate(), fit)
    n_params, n_tokens = (usable[name].to_numpy(dtype=np.float64) for name in (fit.counting, "n_tokens"))
    tried, forecasts = _slide(table, usable, fit, n_params * n_tokens, most=windows)
    if not forecasts:
        why = next((window.skipped for window in reversed(tried) if window.skipped), None)
        raise UserError(
            "extrapolation is untested: "
            + (f"no window of the smaller runs can be fitted ({why})" if why else "all runs have the same compute")
        )
    return Extrapolation(
        windows=tuple(
            Window(
                max_compute=window.limit,
                n_runs=window.n_runs,
                n_predicted=window.n_predicted,
                rms_log_error=window.rms,
                skipped=window.skipped,
            )
            for window in tried
        ),
        forecasts=tuple(forecasts),
        residual_sd=fit.residual_sd,
        growth=_growth(forecasts, fit.residual_sd),
        max_distance=max(point.distance for point in forecasts),
        ratio=_by_ratio(table, usable, fit, n_tokens / n_params, most=ratio_windows),
    )


def forecast(
    fit: Fit, extrapolation: Extrapolation | None, n_params: float, n_tokens: float, unique_tokens: float = math.inf
) -> LossForecast:
    """The law's loss at N and D, with the bootstrap's interval widened by the error of extrapolating.

    Nothing repeats unless `unique_tokens` are fewer than D; a law that ignores them is then told as `analysis.laws.repeating`
    does. Without `extrapolation` only the residuals' sd widens it, and the record says so.

    Raises:
        UserError: N or D is not above 0.
    """
    for name, value in (("n_params", n_params), ("n_tokens", n_tokens)):
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name} is {value:g}; a forecast needs one above 0")
    law = get_law(fit.law) if unique_tokens == math.inf else with_repetition(get_law(fit.law))
    loss = float(law.predict(law.as_vector(fit.params), n_params, n_tokens, unique_tokens))
    distance = n_params * n_tokens / fit.fitted_range.n_times_d.hi
    ratio, ratios = n_tokens / n_params, fit.fitted_range.tokens_per_param
    outside = max(1.0, ratio / ratios.hi, ratios.lo / ratio)
    sd = fit.residual_sd if extrapolation is None else extrapolation.log_error_sd(distance, outside)
    drawn = None if fit.draws_KP is None else interval(law.predict(fit.draws_KP, n_params, n_tokens, unique_tokens))
    below = above = 0.0
    if drawn is not None:
        with np.errstate(all="ignore"):
            low, high = np.log(np.array([drawn.lo, drawn.hi]) / loss)
        below, above = max(0.0, -float(low)), max(0.0, float(high))
    notes = (
        []
        if drawn is not None
        else ["the fit has no resamples, so what other draws of runs would say is not in the interval"]
    )
    # An error of hundreds of e-folds leaves nothing to say of the upper end.
    with np.errstate(all="ignore"):
        lo, hi = loss * np.exp([-math.hypot(below, Z95 * sd), math.hypot(above, Z95 * sd)])
    return LossForecast(
        n_params=n_params,
        n_tokens=n_tokens,
        loss=loss,
        ci95=Interval(lo=float(lo), hi=float(hi)),
        distance=distance,
        ratio_distance=outside,
        note="; ".join([*notes, *_untried(extrapolation, distance, outside)]) or None,
    )


def _untried(extrapolation: Extrapolation | None, distance: float, outside: float) -> list[str]:
    """What of a forecast lies further out than any window tried."""
    if extrapolation is None:
        return ["extrapolation is untested, so the interval knows nothing of its error"]
    said, by_ratio = [], extrapolation.ratio
    if distance > extrapolation.max_distance:
        said.append(
            f"this is {number(distance)}x the largest fitted N D, and windows were tried up to "
            f"{number(extrapolation.max_distance)}x: the error's growth is itself extrapolated"
        )
    if outside > SAME and by_ratio is None:
        said.append(
            f"its D/N is {number(outside)}x outside the fitted ones, and no window of ratios can be fitted to try that: the "
            "interval knows nothing of its error"
        )
    elif by_ratio is not None and outside > by_ratio.max_distance:
        said.append(
            f"its D/N is {number(outside)}x outside the fitted ones, and windows were tried up to "
            f"{number(by_ratio.max_distance)}x: the error's growth is itself extrapolated"
        )
    return said


def _as_fitted(table: RunTable, fit: Fit) -> pd.DataFrame:
    """The runs that `fit` used, as it weighed them, and dropped outliers beyond them, marked as held out."""
    weight = {point.run_id: point.weight for point in fit.points}
    usable = table.usable
    dropped = usable[usable["run_id"].isin({run.run_id for run in fit.dropped})]
    kept = usable[usable["run_id"].isin(weight)]
    beyond = set(dropped["run_id"][beyond_the_kept(dropped, kept[~kept["held_out"]], fit.counting)])
    usable = usable[usable["run_id"].isin({*weight, *beyond})]
    return usable.assign(
        weight=[weight.get(run_id, 1.0) for run_id in usable["run_id"]],
        held_out=usable["held_out"] | usable["run_id"].isin(beyond),
    )


def _by_ratio(
    table: RunTable, usable: pd.DataFrame, fit: Fit, ratio_n: Array, *, most: int
) -> RatioExtrapolation | None:
    """Windows up to some D/N, then windows down to one; None where none can be fitted."""
    windows: list[RatioWindow] = []
    forecasts: list[WindowForecast] = []
    directions: tuple[tuple[Literal["above", "below"], Array], ...] = (("above", ratio_n), ("below", 1 / ratio_n))
    for predicts, x_n in directions:
        tried, found = _slide(table, usable, fit, x_n, most=most)
        forecasts += [replace(point, window=point.window + len(windows)) for point in found]
        windows += [
            RatioWindow(
                limit=window.limit if predicts == "above" else 1 / window.limit,
                predicts=predicts,
                n_runs=window.n_runs,
                n_predicted=window.n_predicted,
                rms_log_error=window.rms,
                skipped=window.skipped,
            )
            for window in tried
        ]
    if not forecasts:
        return None
    return RatioExtrapolation(
        windows=tuple(windows),
        forecasts=tuple(forecasts),
        growth=_growth(forecasts, fit.residual_sd),
        max_distance=max(point.distance for point in forecasts),
    )


def _slide(
    table: RunTable, usable: pd.DataFrame, fit: Fit, x_n: Array, *, most: int
) -> tuple[list[_Tried], list[WindowForecast]]:
    """Windows of the fitted runs of least x, each with its law's forecasts of all runs of larger x."""
    held_out = usable["held_out"].to_numpy(dtype=bool)
    tried: list[_Tried] = []
    forecasts: list[WindowForecast] = []
    for limit in _limits(x_n[~held_out], x_n, len(fit.params), most):
        within, beyond = (x_n <= limit * SAME) & ~held_out, x_n > limit * SAME
        if not beyond.any():
            continue
        rms, skipped = None, None
        try:
            law = fit_table(
                replace(table, frame=usable[within], warnings=()),
                law=fit.law,
                objective=fit.objective,
                delta=fit.delta,
                counting=fit.counting,
                bootstrap=0,
            )
        except UserError as error:
            skipped = str(error)
        else:
            ahead = _predict(law, usable[beyond], x_n[beyond] / limit, len(tried))
            forecasts += ahead
            rms = float(np.sqrt(np.mean([point.log_error**2 for point in ahead]))) if ahead else None
        tried.append(_Tried(limit, int(within.sum()), int(beyond.sum()), rms, skipped))
    return tried, forecasts


def _limits(fitted_n: Array, all_n: Array, n_parameters: int, most: int) -> list[float]:
    """The largest x of each window: values of the fitted runs that leave something to predict."""
    order = np.unique(fitted_n)
    counts = np.searchsorted(np.sort(fitted_n), order, side="right")
    sound = (counts > n_parameters) & (order * SAME < all_n.max())
    order = order[sound]
    if len(order) <= most:
        return [float(limit) for limit in order]
    # Even in the logarithm, as the distances are.
    wanted = np.linspace(np.log(order[0]), np.log(order[-1]), most)
    return [float(limit) for limit in np.unique(order[np.searchsorted(np.log(order), wanted - 1e-12)])]


def _predict(law: Fit, runs: pd.DataFrame, distance_n: Array, window: int) -> list[WindowForecast]:
    form = get_law(law.law)
    n, d, loss, unique = (
        runs[name].to_numpy(dtype=np.float64) for name in (law.counting, "n_tokens", "loss", "unique_tokens")
    )
    with np.errstate(all="ignore"):
        predicted = form.predict(form.as_vector(law.params), n, d, np.where(np.isnan(unique), np.inf, unique))
        error = np.log(predicted / loss)
    return [
        WindowForecast(
            run_id=str(run_id),
            name=str(name),
            window=window,
            n_params=float(n[i]),
            n_tokens=float(d[i]),
            distance=float(distance_n[i]),
            log_error=float(error[i]),
            held_out=bool(held),
        )
        for i, (run_id, name, held) in enumerate(zip(runs["run_id"], runs["name"], runs["held_out"], strict=True))
        if np.isfinite(error[i])
    ]


def _growth(forecasts: list[WindowForecast], residual_sd: float) -> float:
    """The most likely g of normal errors with variance s^2 + (g ln distance)^2; each window weighs the same."""
    error, distance = (np.array([getattr(point, name) for point in forecasts]) for name in ("log_error", "distance"))
    window = np.array([point.window for point in forecasts])
    weight = 1 / np.bincount(window)[window]
    floor = max(residual_sd, 1e-9)
    growth_G = GROWTHS * max(float(np.abs(error).max()), floor) / np.log(2)
    variance_Gn = floor**2 + (growth_G[:, None] * np.log(np.maximum(distance, 1.0))) ** 2
    likelihood_G = -(weight * (np.log(variance_Gn) + error**2 / variance_Gn)).sum(axis=1)
    return float(growth_G[int(np.argmax(likelihood_G))])
