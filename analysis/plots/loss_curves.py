"""Loss against tokens and against FLOPs, one curve a run: what LLaMA's figure 1 shows, with the frontier over compute."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from analysis.intervals import ends
from analysis.laws import get_law
from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Band, Layer, Line, Panel, Picture, Shade
from analysis.results import Array, Study
from analysis.runs.table import LossCurve

#: Compute within this factor counts as the same.
_SAME_COMPUTE = 1.03

#: Points of all curves together; beyond it each is thinned, evenly in log tokens.
_MOST_POINTS = 20_000

#: Least points of a curve's running median; the window is a fiftieth of the curve where that is more.
_MEDIAN_POINTS = 5


def loss_against_tokens(study: Study) -> Picture | Absent:
    """Every trunk and its cooldown branches over tokens, light to dark by size."""
    stem, title = "loss-tokens", "Loss against tokens"
    if not study.curves and parts.runs(study).empty:
        return Absent(stem=stem, title=title, reason="no usable run")
    finals = parts.runs(study)
    colours = parts.colours_by_size(study)
    layers = _curve_layers(study, "n_tokens") + parts.final_points(finals, colours=colours, named=not study.curves)
    caption = "Dots: final validation loss of each run, held-out runs hollow. "
    caption += f"{_curve_words(study)} {parts.counting_words(study)}"
    x = Axis(column="n_tokens", label="training tokens D", unit="count", limits=_x_limits(study, finals["n_tokens"]))
    return Picture(
        stem=stem,
        title=title,
        caption=caption,
        panels=[Panel(x=x, y=_loss_axis(study, finals["loss"]), layers=layers)],
        legend_title="parameters N",
    )


def loss_against_flops(study: Study) -> Picture | Absent:
    """The same over training FLOPs, with the lower envelope of the finished runs and the law's own frontier."""
    stem, title = "loss-flops", "Loss against training compute"
    finals = parts.runs(study)
    if finals.empty:
        return Absent(stem=stem, title=title, reason="no usable run")
    colours = parts.colours_by_size(study)
    layers = _curve_layers(study, "flops") + parts.final_points(finals, colours=colours, named=not study.curves)
    shades: list[Shade] = []
    caption = f"Dots: finished runs, held-out runs hollow. {_curve_words(study)}"
    name = "measured frontier"
    layers.append(Line(table=_frontier(study, finals), series=name, colour=style.INK, width=1.4, legend=name))
    caption += " Measured frontier: runs that no run of the same or less compute beats."
    caption += parts.flops_words(study)
    if study.fit and study.budgets:
        layers += _law_frontier(study)
        shades = [Shade(along="x", start=parts.fitted_flops(study).hi, end=None)]
        caption += f" Band: 95 %. Fitted frontier: the law's least loss at each compute. {parts.law_words(study.fit)}"
    x = Axis(column="flops", label="training compute C (FLOPs)", unit="power", limits=_x_limits(study, finals["flops"]))
    panel = Panel(x=x, y=_loss_axis(study, finals["loss"]), layers=layers, shades=shades)
    return Picture(
        stem=stem,
        title=title,
        caption=f"{caption} {parts.counting_words(study)}",
        panels=[panel],
        legend_title="parameters N",
    )


def _frontier(study: Study, finals: pd.DataFrame) -> pd.DataFrame:
    """The study's frontier; where no run states its compute, the runs' own by the study's rule."""
    if study.frontier:
        table = pd.DataFrame(
            {
                "flops": [p.flops for p in study.frontier],
                "loss": [p.loss for p in study.frontier],
                "n_params": [p.n_params for p in study.frontier],
                "n_tokens": [p.n_tokens for p in study.frontier],
                "run": [p.name for p in study.frontier],
            }
        )
    else:
        columns = ["flops", "loss", "n_params", "n_tokens", "run"]
        table = finals[columns].sort_values(["flops", "loss"], ignore_index=True)
        table = table[table["loss"] < table["loss"].cummin().shift(fill_value=np.inf)]
    # Whole batches leave runs of one budget a little apart: the last, the best of them, stands for the budget.
    return table[table["flops"].shift(-1, fill_value=np.inf) > _SAME_COMPUTE * table["flops"]]


def _x_limits(study: Study, finals: pd.Series[float]) -> tuple[float, float]:
    """To the longest run; where there are curves, from a quarter of the shortest, where loss has left its first fall."""
    return style.padded(float(finals.min()) / (4 if study.curves else 1), float(finals.max()), log=True)


def _loss_axis(study: Study, finals: pd.Series[float]) -> Axis:
    """Room for every final loss, and above them for a part of the curves' fall: the first steps would take all of it."""
    low, high = float(finals.min()), float(finals.max())
    above = 0.6 if study.curves else 0.0
    return Axis(
        column="loss",
        label="loss (nats a token)",
        unit="plain",
        limits=style.padded(low, high + above * (high - low), log=True),
    )


def _curve_words(study: Study) -> str:
    if not study.curves:
        return "No training curves: the runs' table holds final losses alone."
    words = "Lines: training loss, running median; cooldown branches drop off their trunks."
    if any(curve.train_tokens_G.size > _points_a_curve(study) for curve in study.curves):
        words += f" Curves are thinned to {_points_a_curve(study)} points."
    return f"{words} Thin lines where a size has several seeds."


def _curve_layers(study: Study, column: str) -> list[Layer]:
    """One line a curve; a branch starts on its trunk, and every size is named once in the legend."""
    counted, per_token = parts.counted(study), parts.flops_per_token(study)
    colours = parts.colours_by_size(study)
    trunks = {curve.run_id: curve for curve in study.curves}
    seeds = pd.Series([curve.n_params for curve in study.curves if curve.kind != "branch"]).value_counts()
    urls = study.table.frame.set_index("run_id")["mlflow_url"].to_dict()
    most = _points_a_curve(study)
    layers: list[Layer] = []
    names = parts.legend_names(colours)
    for curve in sorted(study.curves, key=lambda curve: (curve.n_params, curve.kind != "trunk", curve.name)):
        n_params = counted.get(curve.n_params)
        if n_params is None or (column == "flops" and n_params not in per_token):
            continue
        tokens, loss = _thinned(*_smoothed(curve, trunks.get(curve.trunk or "")), most)
        if tokens.size == 0:
            continue
        table = pd.DataFrame(
            {
                "n_tokens": tokens,
                "loss": loss,
                "flops": tokens * per_token.get(n_params, np.nan),
                "n_params": n_params,
                "run": curve.name,
                "run_id": curve.run_id,
                "mlflow_url": urls.get(curve.run_id, ""),
            }
        )
        layers.append(
            Line(
                table=table,
                series=f"{curve.kind}, training loss",
                colour=colours[n_params],
                width=0.7 if seeds.get(curve.n_params, 1) > 1 else 1.3,
                legend=names.get(n_params),
            )
        )
    return layers


def _points_a_curve(study: Study) -> int:
    return max(20, _MOST_POINTS // max(1, len(study.curves)))


def _thinned(tokens: Array, loss: Array, most: int) -> tuple[Array, Array]:
    """At most `most` points of a curve, both ends among them."""
    if tokens.size <= most:
        return tokens, loss
    places = np.searchsorted(tokens, parts.log_grid(float(tokens[0]), float(tokens[-1]), most))
    kept = np.unique(np.append(places, tokens.size - 1).clip(0, tokens.size - 1))
    return tokens[kept], loss[kept]


def _smoothed(curve: LossCurve, trunk: LossCurve | None) -> tuple[Array, Array]:
    """(tokens, loss) of a curve after a running median; a branch begins at its trunk's last point before it."""
    tokens, loss = curve.train_tokens_G, _running_median(curve.train_loss_G)
    if trunk is not None and tokens.size and trunk.train_tokens_G.size:
        before = int(np.searchsorted(trunk.train_tokens_G, tokens[0], side="left")) - 1
        if before >= 0:
            tokens = np.concatenate([trunk.train_tokens_G[before : before + 1], tokens])
            loss = np.concatenate([_running_median(trunk.train_loss_G)[before : before + 1], loss])
    return tokens, loss


def _running_median(values_G: Array) -> Array:
    """Centred running median; the window shrinks towards both ends, so that neither end is moved by points far away."""
    half = min(max(_MEDIAN_POINTS, values_G.size // 50) // 2, (values_G.size - 1) // 2)
    if half < 1:
        return values_G
    smoothed = values_G.copy()
    smoothed[half : values_G.size - half] = np.median(sliding_window_view(values_G, 2 * half + 1), axis=1)
    for k in range(1, half):
        smoothed[k] = np.median(values_G[: 2 * k + 1])
        smoothed[-1 - k] = np.median(values_G[-1 - 2 * k :])
    return smoothed


def _law_frontier(study: Study) -> list[Layer]:
    """The law's least loss over C, at its N_opt and the tokens that C then pays for; the band is over bootstrap draws."""
    fit, ridge = study.fit, parts.law_ridge(study)
    assert fit is not None
    table = pd.DataFrame(
        {"flops": ridge.x_G, "n_params": ridge.mid_G, "n_tokens": ridge.x_G / study.train_flops(ridge.mid_G)}
    )
    table["loss"] = parts.law_loss(fit, ridge.mid_G, table["n_tokens"].to_numpy())
    name, colour = "fitted frontier", style.ACCENT
    layers: list[Layer] = [Line(table=table, series=name, colour=colour, dash="dashed", legend=name)]
    if fit.draws_KP is not None:
        # Near its optimum the loss is flat in N, so each draw is taken at the fit's own N_opt.
        law = get_law(fit.law)
        losses = law.predict(fit.draws_KP[:, None, :], ridge.mid_G, table["n_tokens"].to_numpy())
        low, high = ends(losses)
        layers.insert(0, Band(table=table.assign(low=low, high=high), series=name, colour=colour, framed=False))
    return layers
