"""Residuals of the fitted law against N, D and D/N: a law that is wrong somewhere shows a slope or a bend here."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.fitting.describe_fit import AXIS_LABELS
from analysis.plots import parts
from analysis.plots.picture import Absent, Axis, Panel, Picture
from analysis.plots.style import format_number
from analysis.results import ResidualStructure, Study


def residuals(study: Study) -> Picture | Absent:
    """(predicted - measured) / measured for every fitted and held-out run."""
    stem, title = "residuals", "Residuals of the fitted law"
    fit = study.fit
    if fit is None:
        return Absent(stem=stem, title=title, reason=study.absent.get("fit", "no law was fitted"))
    urls = study.table.frame.set_index("run_id")["mlflow_url"]
    table = pd.DataFrame(
        {
            "run": [point.name for point in fit.points],
            "run_id": [point.run_id for point in fit.points],
            "n_params": [point.n_params for point in fit.points],
            "n_tokens": [point.n_tokens for point in fit.points],
            "tokens_per_param": [point.n_tokens / point.n_params for point in fit.points],
            "loss": [point.loss for point in fit.points],
            "predicted": [point.predicted for point in fit.points],
            "residual": [np.expm1(point.log_residual) for point in fit.points],
            "held_out": [point.held_out for point in fit.points],
            "mlflow_url": [urls.get(point.run_id, "") for point in fit.points],
        }
    )
    layers = parts.final_points(table, colours=parts.colours_by_size(study), named=True)
    reach = 1.1 * float(table["residual"].abs().max()) or 0.01
    panels = [
        Panel(
            x=Axis(column=column, label=label, unit="count"),
            y=Axis(column="residual", label=y_label, unit="percent", log=False, limits=(-reach, reach)),
            layers=layers,
            zero_line=True,
        )
        for column, label, y_label in (
            ("n_params", "parameters N", "predicted over measured loss − 1"),
            ("n_tokens", "training tokens D", ""),
            ("tokens_per_param", "tokens a parameter D/N", ""),
        )
    ]
    caption = (
        f"Light to dark by N; held-out runs hollow, predicted and never fitted. Sd of the fitted runs' log residuals: "
        f"{100 * fit.residual_sd:.2g} %. {_structure_words(study.structure)}"
        f"{parts.law_words(fit)} {parts.counting_words(study)}"
    )
    return Picture(stem=stem, title=title, caption=caption, panels=panels, legend_title="parameters N")


def _structure_words(structure: ResidualStructure | None) -> str:
    """The test's p-values, and where it finds structure; "" where it wasn't asked."""
    if structure is None:
        return ""
    tested = [axis for axis in structure.axes if axis.p_holm is not None]
    values = [f"{AXIS_LABELS[axis.axis]} {p_words(axis.p_holm)}" for axis in tested]
    said = (
        f"p-values of no structure, corrected for asking {len(tested)} times (Holm): {', '.join(values)}. "
        if values
        else ""
    )
    return said + "".join(f"{axis.shape[:1].upper()}{axis.shape[1:]}. " for axis in structure.axes if axis.structured)


def p_words(p_value: float | None) -> str:
    if p_value is None:
        return "–"
    return "below 0.001" if p_value < 0.001 else format_number(p_value, "plain", digits=2)
