"""Compute-optimal N and D against C: the bowls' vertices (approach 2) beside the fitted law (approach 3)."""

from __future__ import annotations

import pandas as pd

from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Band, Layer, Line, Panel, Picture, Points, Shade
from analysis.results import Array, IsoflopVertex, PowerLaw, Study

_FLOPS = Axis(column="flops", label="training compute C (FLOPs)", unit="power")


def compute_optima(study: Study) -> Picture | Absent:
    """N_opt and D_opt over C with 95 % bands of both approaches."""
    stem, title = "compute-optima", "Compute-optimal model and tokens"
    if study.compute_ridge is None and study.isoflop is None:
        reason = study.absent.get("compute_ridge") or study.absent.get("isoflop") or "neither a fitted law nor bowls"
        return Absent(stem=stem, title=title, reason=reason)
    panels = [
        Panel(
            x=_FLOPS,
            y=Axis(column=column, label=label, unit="count", limits=_limits(study, column)),
            layers=_layers(study, column),
            title=_exponents(study, column),
            shades=_shades(study),
        )
        for column, label in (("n_params", "N_opt (parameters)"), ("n_tokens", "D_opt (tokens)"))
    ]
    if not any(panel.layers for panel in panels):
        return Absent(stem=stem, title=title, reason="no bowl has a trusted vertex and no law was fitted")
    caption = "Stars: vertices of the isoFLOP bowls, with their power law (approach 2)."
    if study.fit:
        caption += f" Vermilion: the fitted law (approach 3). {parts.law_words(study.fit)}"
    caption += f" Bands: 95 %. {parts.counting_words(study)}"
    return Picture(stem=stem, title=title, caption=caption, panels=panels)


def _layers(study: Study, column: str) -> list[Layer]:
    layers: list[Layer] = []
    if study.compute_ridge is not None:
        layers += _law(study, column)
    if study.isoflop is not None:
        power_law = study.isoflop.n_opt if column == "n_params" else study.isoflop.d_opt
        if power_law is not None:
            layers += _power_law(power_law, column)
        trusted = [vertex for vertex in study.isoflop.vertices if vertex.flag is None]
        if trusted:
            layers.append(_vertices(trusted, column))
    return layers


def _law_curve(study: Study, column: str) -> tuple[Array, Array, Array]:
    """(mid, low, high) of N_opt or D_opt by the law."""
    ridge = study.compute_ridge
    assert ridge is not None
    if column == "n_params":
        return ridge.mid_G, ridge.lo_G, ridge.hi_G
    # At one C more parameters mean fewer tokens: the band's ends change places.
    mid, low, high = (ridge.x_G / study.train_flops(n) for n in (ridge.mid_G, ridge.hi_G, ridge.lo_G))
    return mid, low, high


def _limits(study: Study, column: str) -> tuple[float, float] | None:
    """Of the law's curve, where there is one; wide bands are cut, not the picture stretched."""
    return None if study.compute_ridge is None else parts.roomy_limits(*_law_curve(study, column))


def _exponents(study: Study, column: str) -> str:
    quantity = "n_opt" if column == "n_params" else "d_opt"
    found = []
    if study.fit:
        found.append(f"{getattr(study.fit.exponents, quantity):.2f} (law)")
    power_law = getattr(study.isoflop, quantity) if study.isoflop else None
    if power_law is not None:
        found.append(f"{power_law.exponent:.2f} (vertices)")
    return f"power of C: {', '.join(found)}" if found else ""


def _law(study: Study, column: str) -> list[Layer]:
    ridge = study.compute_ridge
    assert ridge is not None
    mid, low, high = _law_curve(study, column)
    table = pd.DataFrame({"flops": ridge.x_G, column: mid, "low": low, "high": high})
    line = table.drop(columns=["low", "high"])
    return [
        Band(table=table, series="law, 95 % band", colour=style.ACCENT, framed=False),
        Line(table=line, series="law", colour=style.ACCENT, legend="fitted law (approach 3)"),
    ]


def _power_law(power_law: PowerLaw, column: str) -> list[Layer]:
    band = power_law.band
    table = pd.DataFrame({"flops": band.x_G, column: band.mid_G, "low": band.lo_G, "high": band.hi_G})
    line = table.drop(columns=["low", "high"])
    return [
        Band(table=table, series="vertices, 95 % band", colour=style.SECOND, framed=False, opacity=0.15),
        Line(
            table=line,
            series="vertices, power law",
            colour=style.SECOND,
            dash="dashed",
            legend="power law (approach 2)",
        ),
    ]


def _vertices(vertices: list[IsoflopVertex], column: str) -> Points:
    table = pd.DataFrame(
        {
            "flops": [vertex.flops_budget for vertex in vertices],
            column: [vertex.n_opt if column == "n_params" else vertex.d_opt for vertex in vertices],
            "loss": [vertex.loss for vertex in vertices],
        }
    )
    return Points(table=table, series="vertex", colour=style.SECOND, marker="star", size=7.0, legend="isoFLOP vertex")


def _shades(study: Study) -> list[Shade]:
    fitted = study.table.fitted["flops"].dropna()
    if fitted.empty:
        return []
    return [
        Shade(along="x", start=None, end=float(fitted.min()), label=""),
        Shade(along="x", start=float(fitted.max()), end=None),
    ]
