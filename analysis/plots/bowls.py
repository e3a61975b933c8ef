"""IsoFLOP bowls, one a declared budget, with their vertices (Hoffmann et al. 2022, approach 2) and the law's own bowls."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Layer, Line, Panel, Picture, Points
from analysis.results import IsoflopVertex, Study


def isoflop_bowls(study: Study) -> Picture | Absent:
    """Loss against N at each budget; a star at a trusted vertex, an open triangle where the minimum is not bracketed."""
    stem, title = "isoflop-bowls", "IsoFLOP bowls"
    if study.isoflop is None or not study.isoflop.vertices:
        return Absent(stem=stem, title=title, reason=study.absent.get("isoflop", "no declared compute budgets"))
    vertices = study.isoflop.vertices
    colours = style.budget_colours(vertex.flops_budget for vertex in vertices)
    names = parts.legend_names(colours, "power")
    layers: list[Layer] = []
    for vertex in vertices:
        layers += _bowl(study, vertex, colours[vertex.flops_budget], names.get(vertex.flops_budget))
    flagged = [vertex for vertex in vertices if vertex.flag is not None]
    caption = "Dots: measured, seeds averaged. Solid: parabola in log N. Star: its vertex."
    if flagged:
        caption += (
            " Open triangle: least loss of a bowl whose vertex is not trusted (at the grid's edge, or too few sizes)."
        )
    if study.fit:
        caption += f" Dashed: the fitted law at the same compute. {parts.law_words(study.fit)}"
    return Picture(
        stem=stem,
        title=title,
        caption=f"{caption} {parts.counting_words(study)}",
        panels=[
            Panel(
                x=Axis(column="n_params", label="parameters N", unit="count"),
                y=Axis(column="loss", label="validation loss (nats a token)", unit="plain"),
                layers=layers,
            )
        ],
        legend_title="budget (FLOPs)",
    )


def _bowl(study: Study, vertex: IsoflopVertex, colour: str, name: str | None) -> list[Layer]:
    sizes = np.array([point.n_params for point in vertex.points])
    measured = pd.DataFrame(
        {
            "n_params": sizes,
            "n_tokens": [point.n_tokens for point in vertex.points],
            "loss": [point.loss for point in vertex.points],
            "seeds": [point.n_runs for point in vertex.points],
            "flops_budget": vertex.flops_budget,
        }
    )
    layers: list[Layer] = []
    # A single size is no bowl: its dot alone says so.
    grid = parts.log_grid(float(sizes.min()) / 1.12, float(sizes.max()) * 1.12, 61) if sizes.size > 1 else sizes
    if study.fit and sizes.size > 1:
        tokens = vertex.flops_budget / study.train_flops(grid)
        table = pd.DataFrame({"n_params": grid, "n_tokens": tokens, "flops_budget": vertex.flops_budget})
        table["loss"] = parts.law_loss(study.fit, grid, tokens)
        layers.append(Line(table=table, series="law", colour=colour, dash="dashed", width=0.9))
    if vertex.coefficients is not None:
        c0, c1, c2 = vertex.coefficients
        x = np.log(grid) - vertex.ln_n_centre
        table = pd.DataFrame({"n_params": grid, "loss": c0 + c1 * x + c2 * x**2, "flops_budget": vertex.flops_budget})
        layers.append(Line(table=table, series="parabola", colour=colour, width=1.3))
    layers.append(Points(table=measured, series="measured", colour=colour, legend=name, size=5.5))
    if vertex.flag is None:
        star = pd.DataFrame(
            {
                "n_params": [vertex.n_opt],
                "n_tokens": [vertex.d_opt],
                "loss": [vertex.loss],
                "flops_budget": [vertex.flops_budget],
            }
        )
        layers.append(Points(table=star, series="vertex", colour=colour, marker="star", size=8.5))
    else:
        edge = measured.nsmallest(1, "loss").assign(flag=vertex.flag)
        layers.append(Points(table=edge, series="untrusted", colour=colour, marker="triangle", size=9.0, hollow=True))
    return layers
