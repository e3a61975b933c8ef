"""`isoloss report`: the study of a sweep or of anyone's runs, as a page, pictures and points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.commands.options import (
    BootstrapOption,
    CountingOption,
    DColumnOption,
    DemandOption,
    ExperimentOption,
    KeepOption,
    LawOption,
    LossColumnOption,
    MapOption,
    NColumnOption,
    ObjectiveOption,
    PriceOption,
    PromptShareOption,
    RunsArgument,
    SeedOption,
    StorageOption,
    TargetLossOption,
    TrackingOption,
    WhereOption,
)
from sweeps.commands.terminal import say


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
    target_loss: TargetLossOption = None,
    demand: DemandOption = None,
    prompt_share: PromptShareOption = None,
    price_per_hour: PriceOption = None,
    law: LawOption = "chinchilla",
    objective: ObjectiveOption = "huber_log",
    counting: CountingOption = "n_params",
    bootstrap: BootstrapOption = 1000,
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report (default: the sweep's, or ./report).")
    ] = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """The study of a sweep or of anyone's table of runs: report.html, every picture, every plotted point."""
    from analysis.decisions.costs import Prices
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
    options = {
        "law": law,
        "objective": objective,
        "counting": counting,
        "bootstrap": bootstrap,
        "seed": seed,
        "target_loss": target_loss,
        "demand_tokens": demand,
        "prompt_share": prompt_share,
        "prices": None if price_per_hour is None else Prices(price_per_hour=price_per_hour),
    }
    asked = Asked(query=query, options=options)
    report_runs(runs, open_storage(storage), asked=asked, out=out, tracking_uri=tracking_uri, say=say)
