"""Pictures of a search for rates: the trials with their curves, the law, and the held-out size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.plots import style
from analysis.plots.picture import Axis, Band, Layer, Line, Panel, Picture, Points
from sweeps.tuning.optimum import Curve
from sweeps.tuning.rate_law import Point, RateLaws
from sweeps.tuning.rate_study import RateStudy
from sweeps.tuning.trials import Trial

#: A panel shows losses up to this share above its highest minimum: what lies higher is far from any optimum.
_SHOWN_EXCESS = 0.12


def trials_picture(study: RateStudy, tried: Sequence[Trial], curves: Mapping[str, Curve]) -> Picture:
    """Loss against rate, a panel a horizon (three at most: the shortest, the middle, the longest)."""
    horizons = sorted({cell.tokens for cell in study.cells})
    if len(horizons) > 3:
        horizons = [horizons[0], horizons[len(horizons) // 2], horizons[-1]]
    colours = style.size_colours(cell.n_params for cell in study.cells)
    panels = []
    for horizon in horizons:
        layers: list[Layer] = []
        cells = [cell for cell in study.cells if cell.tokens == horizon]
        for cell in cells:
            layers += _cell_layers(cell.cell, colours[cell.n_params], study, tried, curves[cell.cell])
        rows = [one for one in tried for cell in cells if one.cell == cell.cell and one.loss is not None]
        x_axis = _rate_axis([row.peak_lr for row in rows] + [cell.peak_lr for cell in cells])
        y_axis = _loss_axis([row.loss or 0.0 for row in rows], [cell.loss for cell in cells])
        title = f"{style.format_number(horizon, 'count')} tokens"
        panels.append(Panel(x=x_axis, y=y_axis, layers=layers, title=title))
    return Picture(
        stem="rates",
        title="Loss against learning rate, by size and horizon",
        caption=(
            "Points: finished trials; lines: least-squares parabolas in the logarithm of the rate (and of the batch, at its "
            "best), trials far above the best weighing less; stars: their lowest points. Hollow: the held-out size, and minima "
            "at an edge of what finished. Censored trials are no points. A trial scatters about its curve by "
            f"{study.noise:.3f} nats. N counts all parameters."
        ),
        panels=panels,
        legend_title="parameters",
    )


def _cell_layers(name: str, colour: str, study: RateStudy, tried: Sequence[Trial], curve: Curve) -> list[Layer]:
    cell = next(cell for cell in study.cells if cell.cell == name)
    rows = [one for one in tried if one.cell == name and one.loss is not None]
    points = pd.DataFrame([row.model_dump() for row in rows])
    x = np.linspace(curve.x.min(), curve.x.max(), 60)
    line = pd.DataFrame({"peak_lr": np.exp(x), "loss": curve.at(x, np.full_like(x, np.log(cell.batch_tokens)))})
    star = pd.DataFrame({"peak_lr": [cell.peak_lr], "loss": [cell.loss]})
    size = style.format_number(cell.n_params, "count") + (", held out" if cell.held_out else "")
    return [
        Line(table=line, series=f"{name} curve", colour=colour, width=1.2, framed=False),
        Points(table=points, series=name, colour=colour, legend=size, size=4, hollow=cell.held_out),
        Points(table=star, series=f"{name} best", colour=colour, marker="star", size=8, hollow=bool(cell.edges)),
    ]


def _rate_axis(rates: Sequence[float]) -> Axis:
    low, high = style.padded(min(rates), max(rates), log=True)
    ticks = tuple(style.ticks(low, high, log=True, most=5))
    return Axis(column="peak_lr", label="peak learning rate", unit="plain", limits=(low, high), ticks=ticks)


def _loss_axis(losses: Sequence[float], minima: Sequence[float]) -> Axis:
    """From the lowest loss to the highest, or to as far above the minima as tells something."""
    high = min(max(losses), max(minima) * (1 + _SHOWN_EXCESS))
    limits = style.padded(min([*losses, *minima]), high, log=False, margin=0.06)
    return Axis(column="loss", label="validation loss, nats a token", unit="plain", log=False, limits=limits)


def law_picture(study: RateStudy, laws: RateLaws) -> Picture:
    """The best rate against size with the law's lines; beside it the best batch against tokens, where several were tried."""
    panels = [_law_panel(study, laws)]
    if any(law_cell.batch_tokens_ci95[0] != law_cell.batch_tokens_ci95[1] for law_cell in study.cells):
        panels.append(_batch_panel(study, laws))
    return Picture(
        stem="law",
        title="The best learning rate by size and horizon",
        caption=(
            f"Best rate ~ {study.peak_lr.words}, by least squares "
            "in logarithms over the filled points; bars and bands: 95 % of a bootstrap of trials and cells. Hollow: held out, "
            "and minima at an edge of what finished, which are no points of the law. "
            "Crosses: the sweep's own recipe. N counts all parameters."
        ),
        panels=panels,
        legend_title="tokens",
    )


def _law_panel(study: RateStudy, laws: RateLaws) -> Panel:
    colours = style.budget_colours(cell.tokens for cell in study.cells)
    low, high = min(c.n_params for c in study.cells), max(c.n_params for c in study.cells)
    n = np.geomspace(low, high, 40)
    layers: list[Layer] = []
    for horizon, colour in colours.items():
        legend = style.format_number(horizon, "count")
        values = [laws.peak_lr.at(Point(n_params=round(size), tokens=int(horizon))) for size in n]
        table = pd.DataFrame(
            {
                "n_params": n,
                "peak_lr": [value for value, _ in values],
                "low": [interval[0] for _, interval in values],
                "high": [interval[1] for _, interval in values],
            }
        )
        layers.append(Band(table=table, series=f"law at {legend}, 95 %", colour=colour, opacity=0.07, framed=False))
        layers.append(Line(table=table, series=f"law at {legend}", colour=colour, width=1.2))
        cells = [cell for cell in study.cells if cell.tokens == horizon]
        for hollow in sorted({cell.held_out or bool(cell.edges) for cell in cells}):
            rows = [cell for cell in cells if (cell.held_out or bool(cell.edges)) == hollow]
            points = pd.DataFrame(
                [
                    {"n_params": c.n_params, "peak_lr": c.peak_lr, "low": c.peak_lr_ci95[0], "high": c.peak_lr_ci95[1]}
                    for c in rows
                ],
                columns=["n_params", "peak_lr", "low", "high"],
            )
            series = f"best at {legend}" + (", no point of the law" if hollow else "")
            text = legend + (", no point of the law" if hollow else "")
            layers.append(Points(table=points, series=series, colour=colour, legend=text, hollow=hollow))
        defaults = pd.DataFrame([{"n_params": c.n_params, "peak_lr": c.default_lr} for c in cells])
        layers.append(
            Points(table=defaults, series=f"the sweep's own recipe at {legend}", colour=colour, marker="cross", size=5)
        )
    y_axis = Axis(column="peak_lr", label="best peak learning rate", unit="plain")
    return Panel(x=Axis(column="n_params", label="parameters N", unit="count"), y=y_axis, layers=layers)


def _batch_panel(study: RateStudy, laws: RateLaws) -> Panel:
    colours = style.budget_colours(cell.tokens for cell in study.cells)
    middle = int(laws.batch_tokens.n.middle)
    tokens = np.geomspace(min(colours), max(colours), 40)
    values = [laws.batch_tokens.at(Point(n_params=middle, tokens=round(d))) for d in tokens]
    table = pd.DataFrame(
        {
            "tokens": tokens,
            "batch_tokens": [value for value, _ in values],
            "low": [interval[0] for _, interval in values],
            "high": [interval[1] for _, interval in values],
        }
    )
    layers: list[Layer] = [
        Band(table=table, series="law of the batch, 95 %", colour=style.GREY, opacity=0.15, framed=False),
        Line(table=table, series="law of the batch", colour=style.GREY),
    ]
    for hollow in (False, True):
        rows = [cell for cell in study.cells if (cell.cell not in study.batch_tokens.cells) == hollow]
        for cell in rows:
            row = {"tokens": [cell.tokens], "batch_tokens": [cell.batch_tokens]}
            row |= {"low": [cell.batch_tokens_ci95[0]], "high": [cell.batch_tokens_ci95[1]]}
            layers.append(
                Points(table=pd.DataFrame(row), series=cell.cell, colour=colours[cell.tokens], hollow=hollow, size=5)
            )
    return Panel(
        x=Axis(column="tokens", label="training tokens D", unit="count"),
        y=Axis(column="batch_tokens", label="best batch, tokens", unit="count"),
        layers=layers,
    )


def held_out_picture(study: RateStudy, tried: Sequence[Trial], curves: Mapping[str, Curve]) -> Picture:
    """The held-out size: its own trials, and what both recipes came to there (three horizons at most, the longest ones)."""
    panels = []
    for check in study.held_out[-3:]:
        layers = _cell_layers(check.cell, style.GREY, study, tried, curves[check.cell])
        for label, rate, losses, colour, marker in (
            ("tuned recipe", check.predicted_lr, check.tuned_losses, style.ACCENT, "diamond"),
            ("the sweep's own recipe", check.default_lr, check.default_losses, style.SECOND, "square"),
        ):
            known = [loss for loss in losses if loss is not None]
            table = pd.DataFrame({"peak_lr": [rate] * len(known), "loss": known})
            layers.append(
                Points(table=table, series=label, colour=colour, legend=label, marker=marker, size=5)  # type: ignore[arg-type]
            )
        cell = next(cell for cell in study.cells if cell.cell == check.cell)
        own = [one for one in tried if one.cell == check.cell and one.loss is not None]
        rates = [*(one.peak_lr for one in own), check.predicted_lr, check.default_lr, cell.peak_lr]
        losses = [*(one.loss for one in own), *check.tuned_losses, *check.default_losses]
        y_axis = _loss_axis([loss for loss in losses if loss is not None], [cell.loss])
        panels.append(Panel(x=_rate_axis(rates), y=y_axis, layers=layers, title=check.cell))
    return Picture(
        stem="held-out",
        title="Both recipes at the size that the law never saw",
        caption=(
            "Grey: the held-out size's own trials, their curve and its lowest point, which no law was fitted to. The recipes' "
            f"points are one a seed. {'. '.join(check.words for check in study.held_out)}."
        ),
        panels=panels,
    )
