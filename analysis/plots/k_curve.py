"""The k-curve: what shrinking the compute-optimal model costs in training (de Vries 2023)."""

from __future__ import annotations

import pandas as pd

from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Layer, Line, Panel, Picture, Shade
from analysis.results import Study


def k_curve(study: Study) -> Picture | Absent:
    """Extra tokens and compute that a smaller model takes for the same loss (de Vries 2023)."""
    stem, title = "k-curve", "What a smaller model takes in training"
    curve = study.k_curve
    if curve is None:
        return Absent(stem=stem, title=title, reason=study.absent.get("k_curve", "no law was fitted"))
    table = pd.DataFrame({"k_n": curve.k_n_G, "k_d": curve.k_d_G, "overhead": curve.overhead_G})
    x = Axis(
        column="k_n", label="size over the compute-optimal size", unit="plain", limits=(curve.asymptote * 0.9, 1.05)
    )
    shade = Shade(along="x", start=None, end=curve.asymptote, label="")
    layers: list[Layer] = [Line(table=table, series="fitted law", colour=style.ACCENT, width=2.0)]
    # The overhead has a pole at the asymptote: four times the compute is as far as a plan would go.
    overhead = Axis(column="overhead", label="extra training compute", unit="percent", log=False, limits=(-0.03, 3.0))
    tokens = Axis(column="k_d", label="tokens over the compute-optimal tokens", unit="plain", limits=(0.9, 40.0))
    caption = (
        f"At the same loss by the fitted law. Below {100 * curve.asymptote:.0f} % of the compute-optimal size (shaded) no "
        f"number of tokens makes up for the size. {parts.counting_words(study)}"
    )
    panels = [Panel(x=x, y=axis, layers=layers, shades=[shade]) for axis in (overhead, tokens)]
    return Picture(stem=stem, title=title, caption=caption, panels=panels)
