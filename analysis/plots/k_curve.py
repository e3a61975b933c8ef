"""The k-curve: what shrinking the compute-optimal model costs in training (de Vries 2023)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.intervals import ends
from analysis.laws import get_law
from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Band, Layer, Line, Panel, Picture, Points, Shade
from analysis.results import Array, Fit, KCurve, Study

#: Size ratios that are written out.
_NAMED = (0.5, 0.3)


def k_curve(study: Study) -> Picture | Absent:
    """Extra tokens and compute that a smaller model takes for the same loss (de Vries 2023)."""
    stem, title = "k-curve", "What a smaller model takes in training"
    curve = study.k_curve
    if curve is None or study.fit is None:
        return Absent(stem=stem, title=title, reason=study.absent.get("k_curve", "no law was fitted"))
    table = pd.DataFrame({"k_n": curve.k_n_G, "k_d": curve.k_d_G, "overhead": curve.overhead_G})
    x = Axis(
        column="k_n", label="size over the compute-optimal size", unit="plain", limits=(curve.asymptote * 0.9, 1.05)
    )
    shade = Shade(along="x", start=None, end=curve.asymptote, label="")
    # The overhead has a pole at the asymptote: four times the compute is as far as a plan would go.
    overhead = Axis(column="overhead", label="extra training compute", unit="percent", log=False, limits=(-0.03, 3.0))
    tokens = Axis(column="k_d", label="tokens over the compute-optimal tokens", unit="plain", limits=(0.9, 40.0))
    caption = (
        f"At the same loss by the fitted law, when compute goes as N D. Below {100 * curve.asymptote:.0f} % of the "
        f"compute-optimal size (shaded) no number of tokens makes up for the size. "
        f"{'Band: 95 %. ' if study.fit.draws_KP is not None else ''}{parts.law_words(study.fit)} "
        f"{parts.counting_words(study)}"
    )
    panels = [
        Panel(x=x, y=axis, layers=_layers(table, study.fit, curve, axis), shades=[shade]) for axis in (overhead, tokens)
    ]
    return Picture(stem=stem, title=title, caption=caption, panels=panels)


def _layers(table: pd.DataFrame, fit: Fit, curve: KCurve, axis: Axis) -> list[Layer]:
    layers: list[Layer] = [Line(table=table, series="fitted law", colour=style.ACCENT, width=2.0)]
    if fit.draws_KP is not None:
        shape = get_law(fit.law).shape(fit.draws_KP)
        k_d_KG = _token_ratios(np.asarray(shape.alpha), np.asarray(shape.beta), curve.k_n_G)
        drawn_KG = k_d_KG if axis.column == "k_d" else curve.k_n_G * k_d_KG - 1
        low, high = ends(drawn_KG)
        band = pd.DataFrame({"k_n": curve.k_n_G, "low": low, "high": high})
        layers.insert(0, Band(table=band, series="95 % band", colour=style.ACCENT, framed=False))
    named = [k_n for k_n in _NAMED if k_n > curve.asymptote * 1.05]
    values = [float(np.interp(k_n, table["k_n"], table[axis.column])) for k_n in named]
    words = [f"+{style.format_number(v, 'percent')}" if axis.column == "overhead" else f"{v:.3g}×" for v in values]
    points = pd.DataFrame({"k_n": named, axis.column: values, "label": words})
    points = points[points[axis.column].between(*(axis.limits or (-np.inf, np.inf)))]
    if not points.empty:
        layers.append(Points(table=points, series="named ratio", colour=style.INK, size=4.0, labels="label"))
    return layers


def _token_ratios(alpha_K: Array, beta_K: Array, k_n_G: Array) -> Array:
    """k_D = (1 - (beta/alpha) (k_N^-alpha - 1))^(-1/beta), infinite below a draw's asymptote (de Vries 2023); a law's outer
    power k drops out, since at equal loss the inner sums are equal."""
    alpha_K1, beta_K1 = alpha_K[:, None], beta_K[:, None]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        room = 1 - beta_K1 / alpha_K1 * (k_n_G**-alpha_K1 - 1)
        return np.where(room > 0, np.where(room > 0, room, 1.0) ** (-1 / beta_K1), np.inf)
