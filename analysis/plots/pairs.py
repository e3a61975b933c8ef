"""A measured matched pair: the smaller run, trained longer, against the larger one of near-equal loss."""

from __future__ import annotations

import pandas as pd

from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Layer, Line, Panel, Picture, Points
from analysis.results import PairSide, Study


def matched_pair(study: Study) -> Picture | Absent:
    """Two measured runs of near-equal loss: what each costs to train, and from then on with every token served."""
    stem, title = "matched-pair", "Two measured runs of near-equal loss"
    usable = [pair for pair in study.pairs if pair.kind == "measured" and _priced(pair.small) and _priced(pair.large)]
    if not usable:
        reason = "no two runs of near-equal loss, the smaller trained longer, have measured training and serving times"
        return Absent(stem=stem, title=title, reason=study.absent.get("pairs", reason))
    pair = usable[0]
    crossing = pair.break_even_tokens
    known = crossing is not None and crossing > 0
    centre = crossing if known and crossing else max(_train(s) / _serve(s) for s in (pair.small, pair.large))
    demand = parts.log_grid(centre / 30, centre * 30)
    layers: list[Layer] = []
    for side, colour in ((pair.small, style.ACCENT), (pair.large, style.SECOND)):
        words = f"{style.format_number(side.n_params, 'count')} on {style.format_number(side.n_tokens, 'count')} tokens"
        table = pd.DataFrame(
            {
                "demand_tokens": demand,
                "cost": _train(side) + _serve(side) * demand,
                "run": side.name,
                "n_params": side.n_params,
                "n_tokens": side.n_tokens,
                "loss": side.loss,
            }
        )
        layers.append(
            Line(table=table, series=words, colour=colour, width=2.0, legend=f"{words}, loss {side.loss:.3f}")
        )
    if known and crossing:
        text = f"paid for after {style.format_number(crossing, 'count')}"
        cost = _train(pair.small) + _serve(pair.small) * crossing
        table = pd.DataFrame({"demand_tokens": [crossing], "cost": [cost], "label": [text]})
        layers.append(Points(table=table, series="break-even", colour=style.INK, marker="diamond", labels="label"))
    unit = study.serving.per_token.unit if study.serving is not None else "core-seconds"
    caption = (
        f"{unit[0].upper()}{unit[1:]} of the whole training at each size's median speed, then measured {unit} a served "
        f"token at saturation. The losses differ by {abs(pair.loss_gap):.3f} nats a token; up to {pair.tolerance:.3f} "
        f"counts as equal. {parts.counting_words(study)}"
    )
    cost_axis = Axis(column="cost", label=f"training and serving ({unit})", unit="count")
    return Picture(
        stem=stem,
        title=title,
        caption=caption,
        panels=[Panel(x=parts.DEMAND, y=cost_axis, layers=layers)],
        legend_title="run",
    )


def _priced(side: PairSide) -> bool:
    return side.train_seconds is not None and side.serve_seconds_per_token is not None


def _train(side: PairSide) -> float:
    assert side.train_seconds is not None
    return side.train_seconds


def _serve(side: PairSide) -> float:
    assert side.serve_seconds_per_token is not None
    return side.serve_seconds_per_token
