"""How far off laws of the smaller runs were on the larger ones, against the distance in compute."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.intervals import Z95
from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Band, Layer, Line, Panel, Picture, Points, Shade
from analysis.results import Extrapolation, Study, Window

#: How far past what was tried the growth of the error is shown, as a factor of distance.
_BEYOND = 10.0


def extrapolation_error(study: Study) -> Picture | Absent:
    """Relative error of every forecast, light to dark by its window, with the error that intervals are widened by."""
    stem, title = "extrapolation", "Error of extrapolation against distance in compute"
    tried = study.extrapolation
    if tried is None or not tried.forecasts:
        reason = study.absent.get("extrapolation", "no law of the smaller runs could be held against larger ones")
        return Absent(stem=stem, title=title, reason=reason)
    windows = [(k, window) for k, window in enumerate(tried.windows) if window.n_predicted and window.skipped is None]
    layers: list[Layer] = _expected(tried)
    layers += _forecasts(study, tried, windows)
    skipped = len(tried.windows) - len(windows)
    growth = style.format_number(tried.growth * np.log(10.0), "percent", digits=2)
    caption = (
        f"Each window is a law fitted to the runs up to a compute N D alone; dots: the larger runs it predicts, held-out ones "
        f"hollow. Distance: a run's N D over the window's largest. Band: 95 % by the error that forecasts are widened by, "
        f"{style.format_number(tried.residual_sd, 'percent', digits=2)} at the fitted runs and {growth} more (in quadrature) a "
        f"tenfold of compute. Shaded: farther than was tried. "
    )
    if skipped:
        caption += f"{skipped} smaller {'window' if skipped == 1 else 'windows'} could not be fitted. "
    errors = np.array([forecast.log_error for forecast in tried.forecasts])
    reach = 1.15 * max(float(np.abs(np.expm1(errors)).max()), Z95 * tried.log_error_sd(tried.max_distance), 1e-3)
    return Picture(
        stem=stem,
        title=title,
        caption=f"{caption}{parts.counting_words(study)}",
        panels=[
            Panel(
                x=Axis(column="distance", label="distance in compute (times the largest fitted N D)", unit="count"),
                y=Axis(
                    column="error",
                    label="predicted over measured loss − 1",
                    unit="percent",
                    log=False,
                    limits=(-reach, reach),
                ),
                layers=layers,
                shades=[Shade(along="x", start=tried.max_distance, end=None, label="never tried")],
                zero_line=True,
            )
        ],
        legend_title="fitted up to N D of",
    )


def _expected(tried: Extrapolation) -> list[Layer]:
    distance = parts.log_grid(1.0, max(tried.max_distance, 1.0) * _BEYOND)
    sd = np.array([tried.log_error_sd(float(value)) for value in distance])
    table = pd.DataFrame(
        {"distance": distance, "error": Z95 * sd, "low": np.expm1(-Z95 * sd), "high": np.expm1(Z95 * sd)}
    )
    name = "95 % by the error model"
    edges = [
        Line(
            table=table[["distance"]].assign(error=table[end]),
            series=name,
            colour=style.ACCENT,
            width=0.9,
            dash="dashed",
            framed=False,
        )
        for end in ("low", "high")
    ]
    return [Band(table=table.drop(columns="error"), series=name, colour=style.ACCENT, legend=name), *edges]


def _forecasts(study: Study, tried: Extrapolation, windows: list[tuple[int, Window]]) -> list[Layer]:
    colours = style.size_colours(window.max_compute for _, window in windows)
    names = parts.legend_names(colours, "power")
    urls = study.table.frame.set_index("run_id")["mlflow_url"]
    many = len(tried.forecasts) > 300
    layers: list[Layer] = []
    for held_out in (False, True):
        for index, window in windows:
            found = [one for one in tried.forecasts if one.window == index and one.held_out == held_out]
            if not found:
                continue
            table = pd.DataFrame(
                {
                    "distance": [one.distance for one in found],
                    "error": [float(np.expm1(one.log_error)) for one in found],
                    "run": [one.name for one in found],
                    "run_id": [one.run_id for one in found],
                    "n_params": [one.n_params for one in found],
                    "n_tokens": [one.n_tokens for one in found],
                    "held_out": held_out,
                    "fitted_runs": window.n_runs,
                    "mlflow_url": [urls.get(one.run_id, "") for one in found],
                }
            )
            name = names.get(window.max_compute)
            layers.append(
                Points(
                    table=table,
                    series="held-out run" if held_out else "run",
                    colour=colours[window.max_compute],
                    legend="held out" if held_out else name and f"{name} ({window.n_runs} runs)",
                    hollow=held_out,
                    size=3.0 if many else 4.5,
                )
            )
    return layers
