"""Compute-optimal N and D against C by Hoffmann et al.'s three approaches: envelope, isoFLOP vertices, fitted law."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Band, Layer, Line, Marker, Panel, Picture, Points, Shade
from analysis.results import Approach, Array, IsoflopVertex, PowerLaw, Study

_TARGET_LOOKS: tuple[tuple[int, str, Marker], ...] = (
    (1, style.THIRD, "square"),
    (2, style.SECOND, "diamond"),
    (3, style.ACCENT, "circle"),
)
#: Factor of compute between the bars at the target.
_APART = 1.18

_FLOPS = Axis(column="flops", label="training compute C (FLOPs)", unit="power")


def compute_optima(study: Study) -> Picture | Absent:
    """N_opt and D_opt over C with 95 % bands of both approaches."""
    stem, title = "compute-optima", "Compute-optimal model and tokens"
    if study.fit is None and study.isoflop is None:
        reason = study.absent.get("fit") or study.absent.get("isoflop") or "neither a fitted law nor bowls"
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
        why = study.absent.get("budgets", "no law was fitted")
        return Absent(stem=stem, title=title, reason=f"no bowl has a trusted vertex, and {why}")
    said = []
    if _approach(study, 1) is not None:
        said.append("Small dots: the best size along the lower envelope of the runs, with its power law (approach 1).")
    if study.isoflop is not None and any(vertex.flag is None for vertex in study.isoflop.vertices):
        said.append("Stars: vertices of the isoFLOP bowls, with their power law (approach 2).")
    if study.fit and study.budgets:
        said.append(f"Vermilion: the fitted law (approach 3). {parts.law_words(study.fit)}")
    if study.approaches is not None and any(one.n_opt for one in study.approaches.approaches):
        target = style.format_number(study.approaches.flops, "power")
        said.append(f"Bars: each approach at {target} FLOPs, side by side, 95 %.")
    said.append(f"Bands: 95 %. Shaded: compute that no fitted run has. {parts.counting_words(study)}")
    return Picture(stem=stem, title=title, caption=" ".join(said), panels=panels)


def _layers(study: Study, column: str) -> list[Layer]:
    layers: list[Layer] = []
    if study.fit is not None and study.budgets:
        layers += _law(study, column)
    first = _approach(study, 1)
    if first is not None:
        layers += _envelope(study, first, column)
    if study.isoflop is not None:
        power_law = study.isoflop.n_opt if column == "n_params" else study.isoflop.d_opt
        if power_law is not None:
            layers += _power_law(power_law, column)
        trusted = [vertex for vertex in study.isoflop.vertices if vertex.flag is None]
        if trusted:
            layers.append(_vertices(trusted, column))
    return layers + _at_the_target(study, column)


def _approach(study: Study, number: int) -> Approach | None:
    """One of the three, where it has an answer."""
    found = study.approaches.approaches if study.approaches else ()
    return next((one for one in found if one.number == number and one.n_opt is not None), None)


def _envelope(study: Study, first: Approach, column: str) -> list[Layer]:
    """Approach 1: the envelope's optima away from its edges, and their power law up to the target."""
    assert study.approaches is not None
    quantity = "n_opt" if column == "n_params" else "d_opt"
    coefficient, exponent = (first.params[f"{quantity}_{part}"] for part in ("coefficient", "exponent"))
    points = study.approaches.envelope.points if study.approaches.envelope else ()
    inner = pd.DataFrame(
        [
            {"flops": one.flops, "n_params": one.n_params, "n_tokens": one.n_tokens, "loss": one.loss}
            for one in points
            if not one.edge
        ],
        columns=["flops", "n_params", "n_tokens", "loss"],
    )
    low = float(inner["flops"].min()) if len(inner) else study.approaches.largest_flops
    flops = parts.log_grid(low, study.approaches.flops, 41)
    line = pd.DataFrame({"flops": flops, column: coefficient * flops**exponent})
    return [
        Line(
            table=line, series="envelope, power law", colour=style.THIRD, dash="dotted", legend="envelope (approach 1)"
        ),
        Points(table=inner, series="envelope", colour=style.THIRD, size=4.0, framed=False),
    ]


def _at_the_target(study: Study, column: str) -> list[Layer]:
    """What each approach says at the budget where they are compared, a little apart so that no bar hides another."""
    if study.approaches is None:
        return []
    layers: list[Layer] = []
    for number, colour, marker in _TARGET_LOOKS:
        found = _approach(study, number)
        estimate = found and (found.n_opt if column == "n_params" else found.d_opt)
        if not estimate:
            continue
        place = study.approaches.flops * _APART ** (number - 2)
        table = pd.DataFrame({"flops": [place], column: [estimate.value]})
        if estimate.ci95 is not None:
            table = table.assign(low=estimate.ci95.lo, high=estimate.ci95.hi)
        layers.append(
            Points(table=table, series=f"approach {number} at the target", colour=colour, marker=marker, size=5.5)
        )
    return layers


def _law_curve(study: Study, column: str) -> tuple[Array, Array, Array]:
    """(mid, low, high) of N_opt or D_opt by the law."""
    ridge = parts.law_ridge(study)
    if column == "n_params":
        return ridge.mid_G, ridge.lo_G, ridge.hi_G
    # At one C more parameters mean fewer tokens: the band's ends change places.
    mid, low, high = (ridge.x_G / study.train_flops(n) for n in (ridge.mid_G, ridge.hi_G, ridge.lo_G))
    return mid, low, high


def _limits(study: Study, column: str) -> tuple[float, float] | None:
    """Of the law's curve, where there is one, and the other approaches' answers; wide bands are cut, not the picture
    stretched."""
    if study.fit is None or not study.budgets:
        return None
    mid, low, high = _law_curve(study, column)
    others = [
        estimate.value
        for one in (study.approaches.approaches if study.approaches else ())
        if (estimate := one.n_opt if column == "n_params" else one.d_opt) is not None
    ]
    return parts.roomy_limits(np.append(mid, others), low, high)


def _exponents(study: Study, column: str) -> str:
    quantity = "n_opt" if column == "n_params" else "d_opt"
    found = []
    first = _approach(study, 1)
    exponent = first and (first.n_opt_exponent if column == "n_params" else first.d_opt_exponent)
    if exponent:
        found.append(f"{exponent.value:.2f} (envelope)")
    if study.fit:
        found.append(f"{getattr(study.fit.exponents, quantity):.2f} (law)")
    power_law = getattr(study.isoflop, quantity) if study.isoflop else None
    if power_law is not None:
        found.append(f"{power_law.exponent:.2f} (vertices)")
    return f"power of C: {', '.join(found)}" if found else ""


def _law(study: Study, column: str) -> list[Layer]:
    mid, low, high = _law_curve(study, column)
    table = pd.DataFrame({"flops": parts.law_ridge(study).x_G, column: mid, "low": low, "high": high})
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
    return parts.outside(parts.fitted_flops(study), along="x")
