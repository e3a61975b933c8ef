"""The candidates for the next runs over N and D, and what the chosen ones are expected to narrow."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.next.describe_next import WHAT
from analysis.plots import parts, style
from analysis.plots.picture import Axis, Band, Layer, Line, Panel, Picture, Points
from analysis.plots.style import Unit
from analysis.results.next_runs import NextRuns

#: Classes of gain for cost, a factor of 10 each below the best.
CLASSES = ("within 10x of the best", "10x to 100x below", "100x to 1,000x below", "further below")


def next_runs_picture(found: NextRuns) -> Picture:
    """Left: where the runs lie. Right: the narrowed quantity against what is spent."""
    return Picture(
        stem="next-runs",
        title="Which runs to make next",
        caption=(
            f"Left: candidates by the share of the variance of {WHAT[found.narrow]} that each takes away for a FLOP; numbered: "
            "the batch in order; star: what would be trained today. Right: 95 % interval today and as expected after each run "
            f"of the batch. Averaged over {found.resamples} laws. {parts.COUNTING_WORDS[found.fit.counting]}."
        ),
        panels=[_plane(found), _interval(found)],
        legend_title="gain for cost",
    )


def _plane(found: NextRuns) -> Panel:
    candidates = pd.DataFrame(
        {
            "n_params": [run.n_params for run in found.candidates],
            "n_tokens": [run.n_tokens for run in found.candidates],
            "flops": [run.flops for run in found.candidates],
            "share": [run.share for run in found.candidates],
        }
    )
    gain = candidates["share"] / candidates["flops"]
    below = np.clip(np.floor(np.log10(gain.max() / np.maximum(gain, gain.max() * 1e-9))), 0, len(CLASSES) - 1)
    # Dark is much: the map runs from light to dark.
    colours = list(style.sequence_colours([1.0, 10.0, 100.0, 1000.0], colour_map="viridis").values())[::-1]
    layers: list[Layer] = [
        Points(table=candidates[below == k], series=name, colour=colours[k], legend=name, marker="square", size=7.0)
        for k, name in enumerate(CLASSES)
        if (below == k).any()
    ]
    made = pd.DataFrame(found.made, columns=["n_params", "n_tokens"])
    layers.append(Points(table=made, series="made", colour=style.GREY, legend="runs made", size=3.0))
    chosen = pd.DataFrame(
        {
            "n_params": [step.run.n_params for step in found.chosen],
            "n_tokens": [step.run.n_tokens for step in found.chosen],
            "number": [str(k) for k in range(1, len(found.chosen) + 1)],
        }
    )
    if len(chosen):
        layers.append(
            Points(
                table=chosen,
                series="next",
                colour=style.ACCENT,
                legend="next runs",
                labels="number",
                hollow=True,
                size=9.0,
            )
        )
    target = pd.DataFrame([found.target], columns=["n_params", "n_tokens"])
    layers.append(Points(table=target, series="target", colour=style.INK, legend="trained today", marker="star"))
    return Panel(
        x=Axis(column="n_tokens", label="tokens D", unit="count"),
        y=Axis(column="n_params", label="parameters N", unit="count"),
        layers=layers,
        title="candidates",
    )


def _interval(found: NextRuns) -> Panel:
    after = pd.DataFrame(
        {
            "spent": [step.spent_flops for step in found.chosen],
            "value": found.value,
            "low": [step.ci95.lo for step in found.chosen],
            "high": [step.ci95.hi for step in found.chosen],
        }
    )
    first = after["spent"].min() if len(after) else 1.0
    today = pd.DataFrame(
        {"spent": [first / 2], "value": [found.value], "low": [found.ci95.lo], "high": [found.ci95.hi]}
    )
    units: dict[str, Unit] = {"n": "count", "d": "count", "loss": "plain", "dollars": "power"}
    layers: list[Layer] = [Points(table=today, series="today", colour=style.INK, legend="today", marker="square")]
    if len(after):
        layers.append(Band(table=after, series="expected interval", colour=style.ACCENT))
        layers.append(Line(table=after, series="today's value", colour=style.GREY, dash="dotted", width=1.0))
        layers.append(Points(table=after, series="expected after each run", colour=style.ACCENT, size=3.0))
    label = {
        "n": "N* (parameters)",
        "d": "D* (tokens)",
        "loss": "loss (nats a token)",
        "dollars": f"cost ({found.unit})",
    }
    return Panel(
        x=Axis(column="spent", label="spent on next runs (FLOPs)", unit="power"),
        y=Axis(column="value", label=label[found.narrow], unit=units[found.narrow], log=found.narrow != "loss"),
        layers=layers,
        title="expected interval",
    )
