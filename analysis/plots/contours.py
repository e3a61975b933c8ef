"""Lines of equal loss over (N, D), with the training-optimal and the lifetime-optimal ridge and the runs themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Layer, Line, Panel, Picture, Points
from analysis.results import Ridge, Study

_MARGIN = 2.0
"""How far the picture reaches beyond the runs on every side, as a factor."""
_GRID = 90


def iso_loss_contours(study: Study) -> Picture | Absent:
    """The fitted surface, the ridges and the measured points."""
    stem, title = "iso-loss-contours", "Lines of equal loss"
    fit = study.fit
    if fit is None:
        return Absent(stem=stem, title=title, reason=study.absent.get("fit", "no law was fitted"))
    runs = parts.runs(study)
    n_limits = (float(runs["n_params"].min()) / _MARGIN, float(runs["n_params"].max()) * _MARGIN)
    d_limits = (float(runs["n_tokens"].min()) / _MARGIN, float(runs["n_tokens"].max()) * _MARGIN)
    layers = _contours(study, n_limits, d_limits)
    for held_out in (False, True):
        part = runs[runs["held_out"] == held_out]
        if not part.empty:
            text = "held-out run" if held_out else "run"
            layers.append(Points(table=part, series=text, colour=style.INK, hollow=held_out, size=4.5, legend=text))
    caption = "Grey lines: loss of the fitted law, nats a token. "
    if study.lifetime is not None:
        lifetime = study.lifetime
        demand = style.format_number(lifetime.demand_tokens, "count")
        layers.append(_ridge(lifetime.training_ridge, "training-optimal", style.SECOND))
        layers.append(_ridge(lifetime.lifetime_ridge, f"lifetime-optimal at {demand} served", style.ACCENT))
        caption += f"Ridges: cheapest to train, and cheapest to train and serve {demand} tokens. "
        caption += f"{parts.cost_words(lifetime.costs)} "
    elif study.budgets:
        compute = parts.law_ridge(study)
        n_params = compute.mid_G
        n_tokens = compute.x_G / study.train_flops(n_params)
        ridge = Ridge(loss_G=parts.law_loss(fit, n_params, n_tokens), n_params_G=n_params, n_tokens_G=n_tokens)
        layers.append(_ridge(ridge, "compute-optimal", style.SECOND))
    range_ = fit.fitted_range
    caption += f"Shaded: outside the fitted runs. {parts.law_words(fit)} {parts.counting_words(study)}"
    return Picture(
        stem=stem,
        title=title,
        caption=caption,
        panels=[
            Panel(
                x=Axis(column="n_params", label="parameters N", unit="count", limits=n_limits),
                y=Axis(column="n_tokens", label="training tokens D", unit="count", limits=d_limits),
                layers=layers,
                shades=parts.outside(range_.n_params, along="x") + parts.outside(range_.n_tokens, along="y", label=""),
            )
        ],
    )


def _contours(study: Study, n_limits: tuple[float, float], d_limits: tuple[float, float]) -> list[Layer]:
    assert study.fit is not None
    log_n, log_d = (np.log(parts.log_grid(*limits, _GRID)) for limits in (n_limits, d_limits))
    loss = parts.law_loss(study.fit, np.exp(log_n)[None, :], np.exp(log_d)[:, None])
    # Even steps between the best and the 90th percentile: the worst corner is steep and of no interest.
    levels = style.ticks(float(loss.min()), float(np.quantile(loss, 0.9)), log=False, most=12)
    layers: list[Layer] = []
    for level in levels:
        # Loss falls with D at every N, so a contour is one D for each N.
        contour_log_d = np.array([np.interp(level, column[::-1], log_d[::-1], np.nan, np.nan) for column in loss.T])
        inside = np.isfinite(contour_log_d)
        if inside.sum() < 2:
            continue
        table = pd.DataFrame(
            {"n_params": np.exp(log_n[inside]), "n_tokens": np.exp(contour_log_d[inside]), "loss": level}
        )
        label = style.format_number(level, "plain")
        layers.append(Line(table=table, series="contour", colour="#858585", width=0.8, end_label=label))
    return layers


def _ridge(ridge: Ridge, text: str, colour: str) -> Line:
    table = pd.DataFrame({"n_params": ridge.n_params_G, "n_tokens": ridge.n_tokens_G, "loss": ridge.loss_G})
    return Line(table=table, series=text, colour=colour, width=2.0, legend=text, framed=False)
