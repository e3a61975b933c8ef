"""How well this law, on these runs, predicts larger ones: fit the small, predict the large, and carry the error forward.

`expanding_window` fits windows of the runs with least training compute (N D) and predicts every larger run, held-out ones too.
From the errors follows how log error grows with distance in compute, sd^2 = s^2 + (g ln distance)^2 with s the residuals' sd,
by maximum likelihood; `forecast` widens the bootstrap's interval by it. Windows hold fewer runs than the whole fit and so
predict worse than it does: the growth errs on the wide side.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.fitting.fit import fit as fit_table
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.laws.base import Array
from analysis.results import Extrapolation, Fit, Interval, LossForecast, Window, WindowForecast
from analysis.runs.table import RunTable
from analysis.words import number
from llama.errors import UserError

#: Windows tried at most, spread evenly over the runs in order of compute.
MAX_WINDOWS = 8
#: Candidates of the growth g, relative to the largest error seen.
GROWTHS = np.concatenate([[0.0], np.geomspace(1e-4, 2.0, 200)])
#: Normal quantile of a 95 % interval.
Z95 = 1.959964


def expanding_window(table: RunTable, fit: Fit) -> Extrapolation:
    """Forecasts of the larger runs by laws fitted to the smaller ones, as `fit` was fitted to all of `table`.

    Windows that can't identify the law are in the record with the reason.

    Raises:
        UserError: no window can.
    """
    # The runs that the whole fit used, as it weighed them: dropped outliers are in no window, and are predicted by none.
    weight = {point.run_id: point.weight for point in fit.points}
    table = table.at_the_best_rate()
    usable = table.usable
    usable = usable[usable["run_id"].isin(weight)]
    usable = usable.assign(weight=[weight[run_id] for run_id in usable["run_id"]])
    compute = usable[fit.counting].to_numpy(dtype=np.float64) * usable["n_tokens"].to_numpy(dtype=np.float64)
    held_out = usable["held_out"].to_numpy(dtype=bool)
    windows: list[Window] = []
    forecasts: list[WindowForecast] = []
    for limit in _limits(compute[~held_out], compute, len(fit.params)):
        small = (compute <= limit * (1 + 1e-9)) & ~held_out
        large = compute > limit * (1 + 1e-9)
        if not large.any():  # budgets that are equal up to rounding
            continue
        window = Window(
            max_compute=limit,
            n_runs=int(small.sum()),
            n_predicted=int(large.sum()),
            rms_log_error=None,
            skipped=None,
        )
        try:
            law = fit_table(
                _part(table, usable[small]),
                law=fit.law,
                objective=fit.objective,
                delta=fit.delta,
                counting=fit.counting,
                bootstrap=0,
            )
        except UserError as error:
            windows.append(replace(window, skipped=str(error)))
            continue
        ahead = _predict(law, usable[large], compute[large] / limit, len(windows))
        forecasts += ahead
        rms = float(np.sqrt(np.mean([point.log_error**2 for point in ahead])))
        windows.append(replace(window, rms_log_error=rms))
    if not forecasts:
        why = next((window.skipped for window in reversed(windows) if window.skipped), None)
        raise UserError(
            "extrapolation is untested: "
            + (f"no window of the smaller runs can be fitted ({why})" if why else "all runs have the same compute")
        )
    return Extrapolation(
        windows=tuple(windows),
        forecasts=tuple(forecasts),
        residual_sd=fit.residual_sd,
        growth=_growth(forecasts, fit.residual_sd),
        max_distance=max(point.distance for point in forecasts),
    )


def forecast(
    fit: Fit, extrapolation: Extrapolation | None, n_params: float, n_tokens: float, unique_tokens: float = math.inf
) -> LossForecast:
    """The law's loss at N and D, with the bootstrap's interval widened by the error of extrapolating.

    Nothing repeats unless `unique_tokens` are fewer than D. Without `extrapolation` only the residuals' sd widens it, and the
    record says so.

    Raises:
        UserError: N or D is not above 0.
    """
    for name, value in (("n_params", n_params), ("n_tokens", n_tokens)):
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name} is {value:g}; a forecast needs one above 0")
    law = get_law(fit.law)
    loss = float(law.predict(law.as_vector(fit.params), n_params, n_tokens, unique_tokens))
    distance = n_params * n_tokens / fit.fitted_range.n_times_d.hi
    sd = fit.residual_sd if extrapolation is None else extrapolation.log_error_sd(distance)
    drawn = None if fit.draws_KP is None else interval(law.predict(fit.draws_KP, n_params, n_tokens, unique_tokens))
    below = above = 0.0
    if drawn is not None:
        below, above = max(0.0, math.log(loss / drawn.lo)), max(0.0, math.log(drawn.hi / loss))
    notes = []
    if drawn is None:
        notes.append("the fit has no resamples, so what other draws of runs would say is not in the interval")
    if extrapolation is None:
        notes.append("extrapolation is untested, so the interval knows nothing of its error")
    elif distance > extrapolation.max_distance:
        notes.append(
            f"this is {number(distance)}x the largest fitted N D, and windows were tried up to "
            f"{number(extrapolation.max_distance)}x: the error's growth is itself extrapolated"
        )
    return LossForecast(
        n_params=n_params,
        n_tokens=n_tokens,
        loss=loss,
        ci95=Interval(
            lo=loss * math.exp(-math.hypot(below, Z95 * sd)), hi=loss * math.exp(math.hypot(above, Z95 * sd))
        ),
        bootstrap_ci95=drawn,
        distance=distance,
        extrapolation_sd=sd,
        note="; ".join(notes) or None,
    )


def _limits(fitted_compute: Array, all_compute: Array, n_parameters: int) -> list[float]:
    """Largest N D of each window: quantiles of the fitted runs' compute that leave something to predict."""
    order = np.unique(fitted_compute)
    counts = np.searchsorted(np.sort(fitted_compute), order, side="right")
    sound = (counts > n_parameters) & (order < all_compute.max())
    order = order[sound]
    if len(order) <= MAX_WINDOWS:
        return [float(limit) for limit in order]
    # Even in the logarithm of compute, as the distances are.
    wanted = np.linspace(np.log(order[0]), np.log(order[-1]), MAX_WINDOWS)
    return [float(limit) for limit in np.unique(order[np.searchsorted(np.log(order), wanted - 1e-12)])]


def _part(table: RunTable, runs: pd.DataFrame) -> RunTable:
    return replace(table, frame=runs, warnings=())


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
