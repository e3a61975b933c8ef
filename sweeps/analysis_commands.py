"""The commands that say what runs mean: fit, recommend, compare and report. They need neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.options import (
    FIT_PANEL,
    BootstrapOption,
    CountingOption,
    DColumnOption,
    DeltaOption,
    DropOutliersOption,
    ExperimentOption,
    JsonOption,
    KeepOption,
    LawOption,
    LossColumnOption,
    MapOption,
    NColumnOption,
    ObjectiveOption,
    ResamplingOption,
    RunsArgument,
    SeedOption,
    StorageOption,
    TrackingOption,
    WeightsOption,
    WhereOption,
)
from sweeps.terminal import print_json, say

app = typer.Typer()


@app.command()
def fit(
    runs: RunsArgument,
    storage: StorageOption = None,
    n_column: NColumnOption = None,
    d_column: DColumnOption = None,
    loss_column: LossColumnOption = None,
    mapping: MapOption = None,
    experiment: ExperimentOption = None,
    where: WhereOption = None,
    keep: KeepOption = None,
    law: LawOption = "chinchilla",
    approach: Annotated[
        int,
        typer.Option(
            min=1,
            max=3,
            help="3: the loss surface; 2: isoFLOP bowls; 1: the envelope of the losses.",
            rich_help_panel=FIT_PANEL,
        ),
    ] = 3,
    objective: ObjectiveOption = "huber_log",
    delta: DeltaOption = 1e-3,
    counting: CountingOption = "n_params",
    weights: WeightsOption = "column",
    drop_outliers: DropOutliersOption = False,
    bootstrap: BootstrapOption = 1000,
    resampling: ResamplingOption = "auto",
    seed: SeedOption = 0,
    freeze: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the law and its forecasts with their hash, to be held against runs made later."
        ),
    ] = None,
    forecast: Annotated[
        list[str] | None,
        typer.Option(metavar="N,D", help="Another model to forecast in the frozen file: 7e9,2e12. Repeatable."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Hold a frozen file's forecasts against these runs.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law to a sweep's runs, or to anyone's table, with intervals and held-out error."""
    from analysis import fit as fit_law
    from analysis.describe_fit import describe_fit
    from analysis.fit_json import fit_json
    from sweeps.runs_query import open_runs

    table = open_runs(
        runs,
        storage,
        n_column=n_column,
        d_column=d_column,
        loss_column=loss_column,
        mapping=mapping,
        experiment=experiment,
        where=where,
        keep=keep,
    )
    fitted = fit_law(
        table,
        law=law,
        objective=objective,
        delta=delta,
        counting=counting,
        weights=weights,
        drop_outliers=drop_outliers,
        bootstrap=bootstrap,
        resampling=resampling,
        seed=seed,
    )
    if as_json:
        print_json(fit_json(fitted))
    else:
        say(describe_fit(fitted))


@app.command()
def report(
    runs: RunsArgument,
    storage: StorageOption = None,
    n_column: NColumnOption = None,
    d_column: DColumnOption = None,
    loss_column: LossColumnOption = None,
    mapping: MapOption = None,
    experiment: ExperimentOption = None,
    where: WhereOption = None,
    keep: KeepOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report (default: the sweep's, or ./report).")
    ] = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """The study of a sweep or of anyone's table of runs: report.html, every picture, every plotted point."""
    from sweeps.reporting import Asked, report_runs
    from sweeps.runs_query import runs_query
    from sweeps.storage import open_storage

    query = runs_query(
        n_column=n_column,
        d_column=d_column,
        loss_column=loss_column,
        mapping=mapping,
        experiment=experiment,
        where=where,
        keep=keep,
    )
    asked = Asked(query=query)
    report_runs(runs, open_storage(storage), asked=asked, out=out, tracking_uri=tracking_uri, say=say)
