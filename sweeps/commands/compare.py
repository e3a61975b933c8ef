"""`isoloss compare`: two recipes or corpora as a compute multiplier, with its interval."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.commands.options import (
    RUNS_PANEL,
    BootstrapOption,
    CountingOption,
    DColumnOption,
    DeltaOption,
    DropOutliersOption,
    JsonOption,
    KeepOption,
    LawOption,
    LossColumnOption,
    MapOption,
    NColumnOption,
    ObjectiveOption,
    ResamplingOption,
    SeedOption,
    StorageOption,
    WeightsOption,
    WhereOption,
)
from sweeps.commands.terminal import print_json, say

WhereOfOne = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="As --where, for this table alone.", rich_help_panel=RUNS_PANEL),
]
ExperimentOfOne = Annotated[
    str | None, typer.Option(help="The experiment, where it is a tracking URI.", rich_help_panel=RUNS_PANEL)
]


def compare(
    runs_a: Annotated[str, typer.Argument(metavar="RUNS_A", help="A sweep, a .csv or .parquet, or a tracking URI.")],
    runs_b: Annotated[str, typer.Argument(metavar="RUNS_B", help="What to hold against it; it may be the same file.")],
    storage: StorageOption = None,
    where_a: WhereOfOne = None,
    where_b: WhereOfOne = None,
    where: WhereOption = None,
    experiment_a: ExperimentOfOne = None,
    experiment_b: ExperimentOfOne = None,
    n_column: NColumnOption = None,
    d_column: DColumnOption = None,
    loss_column: LossColumnOption = None,
    mapping: MapOption = None,
    keep: KeepOption = None,
    at_compute: Annotated[
        list[float] | None, typer.Option(help="Training FLOPs of B at which to tell the multiplier. Repeatable.")
    ] = None,
    at_loss: Annotated[list[float] | None, typer.Option(help="Losses at which to tell it instead. Repeatable.")] = None,
    law: LawOption = "chinchilla",
    objective: ObjectiveOption = "huber_log",
    delta: DeltaOption = 1e-3,
    counting: CountingOption = "n_params",
    weights: WeightsOption = "column",
    drop_outliers: DropOutliersOption = False,
    bootstrap: BootstrapOption = 1000,
    resampling: ResamplingOption = "auto",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """How many times the compute RUNS_A's recipe or corpus needs for what RUNS_B's reaches, with its interval."""
    from analysis.comparing.compare import compare as compare_tables
    from analysis.comparing.compare import compare_json, describe_comparison
    from sweeps.runs_query import open_runs

    tables = [
        open_runs(
            runs,
            storage,
            n_column=n_column,
            d_column=d_column,
            loss_column=loss_column,
            mapping=mapping,
            experiment=experiment,
            where=[*(where or ()), *(own or ())],
            keep=keep,
        )
        for runs, own, experiment in ((runs_a, where_a, experiment_a), (runs_b, where_b, experiment_b))
    ]
    comparison = compare_tables(
        *tables,
        at_flops=at_compute or None,
        at_loss=at_loss or None,
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
        print_json(compare_json(comparison))
    else:
        say("\n".join(describe_comparison(comparison)))
