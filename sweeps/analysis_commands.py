"""The commands that say what runs mean: fit and report. They need neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.options import (
    BootstrapOption,
    CountingOption,
    DColumnOption,
    DeltaOption,
    JsonOption,
    LossColumnOption,
    NColumnOption,
    ObjectiveOption,
    RunsArgument,
    SeedOption,
    StorageOption,
    TrackingOption,
    read_runs,
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
    objective: ObjectiveOption = "huber_log",
    delta: DeltaOption = 1e-3,
    counting: CountingOption = "n_params",
    bootstrap: BootstrapOption = 1000,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law to a sweep's runs, or to anyone's table, with intervals and held-out error."""
    from analysis import fit as fit_law
    from analysis.answer import describe_fit
    from analysis.fit_json import fit_json

    table = read_runs(runs, storage, n_column=n_column, d_column=d_column, loss_column=loss_column)
    fitted = fit_law(table, objective=objective, delta=delta, counting=counting, bootstrap=bootstrap, seed=seed)
    if as_json:
        print_json(fit_json(fitted))
    else:
        say(describe_fit(fitted))


@app.command()
def report(
    runs: RunsArgument,
    storage: StorageOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report (default: the sweep's, or ./report).")
    ] = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """The study of a sweep or of anyone's table of runs: report.html, every picture, every plotted point."""
    from sweeps.reporting import report_runs
    from sweeps.storage import open_storage

    report_runs(runs, open_storage(storage), out=out, tracking_uri=tracking_uri, say=say)
