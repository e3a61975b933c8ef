"""Final loss against peak learning rate: whether the recipe's rate is near its best at every size."""

from __future__ import annotations

import pandas as pd

from analysis.plots import parts
from analysis.plots.picture import Absent, Axis, Layer, Line, Panel, Picture, Points
from analysis.results import Study


def loss_against_learning_rate(study: Study) -> Picture | Absent:
    """One line a size and length, through the means over seeds."""
    stem, title = "learning-rate", "Loss against learning rate"
    runs = study.table.finished
    runs = runs.assign(n_params=runs[parts.counting(study)], run=runs["name"])
    rates = runs.groupby(["n_params", "n_tokens"])["peak_lr"].nunique()
    swept = runs.set_index(["n_params", "n_tokens"]).loc[rates[rates > 1].index].reset_index()
    if swept.empty:
        return Absent(stem=stem, title=title, reason="no size was trained at several learning rates for one length")
    colours = parts.colours_by_size(study)
    names = parts.legend_names(swept["n_params"])
    layers: list[Layer] = []
    for _, cell in swept.groupby(["n_params", "n_tokens"]):
        n_params = float(cell["n_params"].iloc[0])
        means = cell.groupby(["peak_lr", "n_params", "n_tokens"])["loss"].mean().reset_index()
        colour = colours[n_params]
        layers.append(Line(table=means, series="mean over seeds", colour=colour, legend=names.get(n_params)))
        table: pd.DataFrame = cell[["run", "run_id", "seed", "n_params", "n_tokens", "peak_lr", "loss", "mlflow_url"]]
        layers.append(Points(table=table, series="run", colour=colour, size=4.5))
    panel = Panel(
        x=Axis(column="peak_lr", label="peak learning rate", unit="plain"),
        y=Axis(column="loss", label="validation loss (nats a token)", unit="plain"),
        layers=layers,
    )
    caption = f"Dots: runs. Lines: means over seeds, one a size and length. {parts.counting_words(study)}"
    return Picture(stem=stem, title=title, caption=caption, panels=[panel], legend_title="parameters N")
