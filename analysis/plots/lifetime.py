"""The decision's pictures: lifetime cost and the optimal model against demand, and what a wrong forecast costs.

Demand is the number of tokens served over the model's life (Sardana et al. 2024).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from analysis.decisions.lifetime import break_even_demand
from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Band, Dash, Layer, Line, Panel, Picture, Points, Shade
from analysis.results import Array, Costs, Lifetime, SizeLine, Study
from analysis.results import Band as Curve

#: Forecasts of the regret picture, as multiples of the study's own demand.
_FORECASTS = (0.1, 1.0, 10.0)
#: Regret beyond this is off the picture: nobody plans for it.
_MOST_REGRET = 2.0
#: Break-evens that are written out; between many sizes, evenly picked ones.
_MOST_LABELS = 5
_TRIED_WORDS = "Squares: the recommended model at 0.1, 1 and 10 times its forecast, bars 95 %. "
#: How far from the optimal sizes an edge of the sizes that cost little more is followed, as a factor.
_NEAR_REACH = 10.0
#: Sizes that have a line; of more, evenly picked ones.
_MOST_SIZES = 24


def lifetime_cost(study: Study) -> Picture | Absent:
    """Cost of training and serving against demand, one line a size, all trained to the same loss."""
    stem, title = "lifetime-cost", "Lifetime cost against demand"
    lifetime = study.lifetime
    if lifetime is None:
        return _absent(study, stem, title)
    sizes = [lifetime.sizes[k] for k in parts.evenly(len(lifetime.sizes), _MOST_SIZES)]
    colours = style.size_colours(size.n_params for size in sizes)
    demand, least = lifetime.demand_tokens_G, lifetime.cost.mid_G
    names = parts.legend_names(colours)
    cost_layers: list[Layer] = []
    excess_layers: list[Layer] = []
    for size in sizes:
        table = pd.DataFrame(
            {
                "demand_tokens": demand,
                "cost": size.cost_G,
                "excess": size.cost_G / least - 1,
                "n_params": size.n_params,
                "n_tokens": size.n_tokens,
            }
        )
        line = Line(table=table, series="size", colour=colours[size.n_params])
        cost_layers.append(replace(line, legend=names.get(size.n_params)))
        excess_layers.append(line)
    least_table = pd.DataFrame(
        {"demand_tokens": demand, "cost": least, "excess": 0.0, "n_params": lifetime.n_params.mid_G}
    )
    best = Line(table=least_table, series="any size", colour=style.INK, dash="dotted", legend="any size")
    crossings = _crossings(lifetime, sizes)
    cost_layers += [best, *crossings]
    excess_layers += [best, *(replace(points, labels=None, legend=None) for points in crossings)]
    loss = style.format_number(lifetime.target_loss, "plain", digits=4)
    picked = f"{len(sizes)} of {len(lifetime.sizes)} sizes. " if len(sizes) < len(lifetime.sizes) else ""
    caption = (
        f"Every size trained until the fitted law gives {loss} nats a token, then serving. {parts.cost_words(lifetime.costs)} "
        f"Right: cost over the least that any size could have. Diamonds: demand from which the smaller of two neighbouring "
        f"sizes is the cheaper to own. {picked}"
        f"{parts.counting_words(study)}"
    )
    shades = _extrapolated(lifetime)
    # Twice the least cost is as far as a choice of size is worth looking at.
    most = min(1.0, max([0.05, *(1.05 * float(np.max(size.cost_G / least - 1)) for size in sizes)]))
    excess = Axis(column="excess", label="cost over the least", unit="percent", log=False, limits=(-0.03 * most, most))
    cost = Axis(column="cost", label=f"training and serving ({lifetime.costs.unit})", unit=_cost_unit(lifetime.costs))
    return Picture(
        stem=stem,
        title=title,
        caption=caption,
        panels=[
            Panel(x=parts.DEMAND, y=cost, layers=cost_layers, shades=shades),
            Panel(x=parts.DEMAND, y=excess, layers=excess_layers, shades=shades),
        ],
        legend_title="parameters N",
    )


def optimum_against_demand(study: Study) -> Picture | Absent:
    """The cheapest N and D to own against demand, with 95 % bands and the region within 1 % of the least cost."""
    stem, title = "lifetime-optimum", "Lifetime-optimal model against demand"
    lifetime = study.lifetime
    if lifetime is None:
        return _absent(study, stem, title)
    demand = lifetime.demand_tokens_G
    n_layers: list[Layer] = [
        *_near(lifetime, "within 5 % of the least cost", lifetime.within_5pct_G2, "dotted"),
        *_near(lifetime, "within 1 % of the least cost", lifetime.within_1pct_G2, "dashed"),
        *_curve(lifetime.n_params, "n_params", "lifetime-optimal"),
        _level(demand, "n_params", lifetime.training_optimal.n_params),
    ]
    d_layers: list[Layer] = [
        *_curve(lifetime.n_tokens, "n_tokens", "lifetime-optimal"),
        _level(demand, "n_tokens", lifetime.training_optimal.n_tokens),
    ]
    loss = style.format_number(lifetime.target_loss, "plain", digits=4)
    banded = bool(np.isfinite(lifetime.n_params.lo_G).any())
    caption = (
        f"Cheapest model to train and serve at a loss of {loss} nats a token, by the fitted law. "
        f"{parts.cost_words(lifetime.costs)} "
        f"{'Vermilion band: 95 %. ' if banded else ''}{parts.counting_words(study)}"
    )
    shades = _extrapolated(lifetime)
    return Picture(
        stem=stem,
        title=title,
        caption=caption,
        panels=[
            Panel(
                x=parts.DEMAND,
                y=_roomy("n_params", "parameters N", lifetime.n_params, lifetime.within_5pct_G2),
                layers=n_layers,
                shades=shades,
            ),
            Panel(
                x=parts.DEMAND,
                y=_roomy("n_tokens", "training tokens D", lifetime.n_tokens),
                layers=d_layers,
                shades=shades,
            ),
        ],
    )


def forecast_regret(study: Study) -> Picture | Absent:
    """What a model planned for one demand costs over the best, when the demand turns out another."""
    stem, title = "forecast-regret", "Price of a wrong demand forecast"
    lifetime = study.lifetime
    if lifetime is None:
        return _absent(study, stem, title)
    demand = lifetime.demand_tokens_G
    colours = style.budget_colours(_FORECASTS)
    layers: list[Layer] = []
    for factor in _FORECASTS:
        forecast = lifetime.demand_tokens * factor
        if not demand[0] <= forecast <= demand[-1]:
            continue
        n_params, n_tokens = (_at(forecast, demand, band.mid_G) for band in (lifetime.n_params, lifetime.n_tokens))
        cost = _own(lifetime.costs, n_params, n_tokens, demand)
        table = pd.DataFrame(
            {
                "demand_tokens": demand,
                "regret": np.maximum(0.0, cost / lifetime.cost.mid_G - 1),
                "forecast_tokens": forecast,
                "n_params": n_params,
                "n_tokens": n_tokens,
            }
        )
        words = f"{style.format_number(forecast, 'count')}: N {style.format_number(n_params, 'count')}"
        layers.append(Line(table=table, series="planned model", colour=colours[factor], legend=words))
    most = max((float(layer.table["regret"].max()) for layer in layers), default=0.0)
    limits = style.padded(0.0, min(max(most, 0.01), _MOST_REGRET), log=False)
    if not layers:
        return Absent(stem=stem, title=title, reason="the study's demand lies outside its own grid")
    tried = _tried_forecasts(study)
    layers += tried
    caption = (
        f"Each line is the model that is cheapest at the demand it was planned for. "
        f"{_TRIED_WORDS if tried else ''}"
        f"{parts.cost_words(lifetime.costs)} "
        f"{parts.counting_words(study)}"
    )
    return Picture(
        stem=stem,
        title=title,
        caption=caption,
        panels=[
            Panel(
                x=parts.DEMAND,
                y=Axis(column="regret", label="cost over the least", unit="percent", log=False, limits=limits),
                layers=layers,
                shades=_extrapolated(lifetime),
            )
        ],
        legend_title="planned for a demand of",
    )


def _at(demand: float, demand_G: Array, values_G: Array) -> float:
    """A curve over demand between its points: both axes are logarithmic, and between neighbours it is all but straight."""
    return float(np.exp(np.interp(np.log(demand), np.log(demand_G), np.log(values_G))))


def _tried_forecasts(study: Study) -> list[Layer]:
    """The recommendation's own regret, with its interval, where it was asked at the study's demand."""
    advice, lifetime = study.recommendation, study.lifetime
    assert lifetime is not None
    if advice is None or not advice.regret or advice.question.demand_tokens != lifetime.demand_tokens:
        return []
    known = [
        one for one in advice.regret if lifetime.demand_tokens_G[0] <= one.demand_tokens <= lifetime.demand_tokens_G[-1]
    ]
    table = pd.DataFrame(
        {
            "demand_tokens": [one.demand_tokens for one in known],
            "regret": [one.extra_cost for one in known],
            "low": [one.ci95.lo if one.ci95 else one.extra_cost for one in known],
            "high": [one.ci95.hi if one.ci95 else one.extra_cost for one in known],
            "n_params": advice.recommended.n_params,
        }
    )
    name = "recommended, 95 %"
    return [Points(table=table, series=name, legend=name, colour=style.ACCENT, marker="square", size=5.0)]


def _absent(study: Study, stem: str, title: str) -> Absent:
    return Absent(stem=stem, title=title, reason=study.absent.get("lifetime", "no law or no costs to weigh"))


def _curve(band: Curve, column: str, text: str) -> list[Layer]:
    table = pd.DataFrame({"demand_tokens": band.x_G, column: band.mid_G, "low": band.lo_G, "high": band.hi_G})
    return [
        Band(table=table, series=f"{text}, 95 % band", colour=style.ACCENT),
        Line(table=table.drop(columns=["low", "high"]), series=text, colour=style.ACCENT, width=2.0, legend=text),
    ]


def _roomy(column: str, label: str, band: Curve, near_G2: Array | None = None) -> Axis:
    mid = band.mid_G
    if near_G2 is not None:
        # Where cost hardly depends on size the edges run off: the curve itself is not to become flat for them.
        mid = np.append(mid, np.clip(near_G2, mid.min() / _NEAR_REACH, mid.max() * _NEAR_REACH))
    limits = parts.roomy_limits(mid, band.lo_G, band.hi_G, factor=5.0)
    return Axis(column=column, label=label, unit="count", limits=limits)


def _near(lifetime: Lifetime, text: str, edges_G2: Array, dash: Dash) -> list[Layer]:
    """Both edges of the sizes whose cost is that near to the least."""
    tables = [pd.DataFrame({"demand_tokens": lifetime.demand_tokens_G, "n_params": edge_G}) for edge_G in edges_G2.T]
    return [Line(table=table, series=text, legend=text, colour=style.GREY, dash=dash, width=1.0) for table in tables]


def _level(demand: Array, column: str, value: float) -> Line:
    table = pd.DataFrame({"demand_tokens": demand[[0, -1]], column: value})
    return Line(table=table, series="training-optimal", colour=style.INK, dash="dotted", legend="training-optimal")


def _crossings(lifetime: Lifetime, sizes: list[SizeLine]) -> list[Points]:
    """Break-evens between neighbours among the drawn sizes, as diamonds on their lines."""
    rows = []
    for small, large in pairwise(sizes):
        demand = break_even_demand(lifetime.costs, (small.n_params, small.n_tokens), (large.n_params, large.n_tokens))
        if demand is None or not lifetime.demand_tokens_G[0] <= demand <= lifetime.demand_tokens_G[-1]:
            continue
        log_demand = np.log(lifetime.demand_tokens_G)
        cost, least = (
            float(np.exp(np.interp(np.log(demand), log_demand, np.log(cost_G))))
            for cost_G in (small.cost_G, lifetime.cost.mid_G)
        )
        rows.append(
            {
                "demand_tokens": demand,
                "cost": cost,
                "excess": cost / least - 1,
                "small": small.n_params,
                "large": large.n_params,
                "label": style.format_number(demand, "count"),
            }
        )
    if not rows:
        return []
    written = parts.evenly(len(rows), _MOST_LABELS)
    for k, row in enumerate(rows):
        if k not in written:
            row["label"] = ""
    table, name = pd.DataFrame(rows), "break-even"
    return [Points(table=table, series=name, legend=name, colour=style.ACCENT, marker="diamond", labels="label")]


def _extrapolated(lifetime: Lifetime) -> list[Shade]:
    """Stretches of demand whose optimum leaves the fitted range."""
    demand, outside = lifetime.demand_tokens_G, lifetime.extrapolated_G
    edges = np.flatnonzero(np.diff(np.concatenate([[False], outside, [False]]).astype(int)))
    return [
        Shade(
            along="x",
            start=float(demand[first]) if first else None,
            end=float(demand[last - 1]) if last < len(demand) else None,
            label="optimum extrapolated",
        )
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]


def _own(costs: Costs, n_params: float, n_tokens: float, demand: Array) -> Array:
    return costs.train(n_params) * n_tokens + costs.serve(n_params) * demand


def _cost_unit(costs: Costs) -> style.Unit:
    return "power" if costs.unit == "FLOPs" else "count"
