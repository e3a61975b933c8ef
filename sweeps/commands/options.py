"""Options that several commands share, and the groups of them that `takes` hands over as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.fitting.options import DEFAULTS, FitOptions
from analysis.laws import law_names
from llama.errors import UserError
from sweeps.runs_query import RunsQuery, columns_of

RUNS_PANEL = "Which runs"
FIT_PANEL = "How they are fitted"

#: The outermost 2.5 % of this many resamples are two or three of them.
LEAST_BOOTSTRAP = 100

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's YAML, its folder, or its name.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="A standing Ray cluster: auto, or host:port (default: a Ray of its own)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
StorageOption = Annotated[
    Path | None, typer.Option("--storage", help="Storage root (default: ISOLOSS_STORAGE, else ./isoloss-data).")
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow server or store, or off (default: MLFLOW_TRACKING_URI, else SQLite in the storage).",
    ),
]
CalibrateOption = Annotated[
    bool, typer.Option("--calibrate", help="Measure how fast this machine trains each size first, and remember it.")
]

RunsArgument = Annotated[
    str,
    typer.Argument(metavar="RUNS", help="A sweep, a .csv or .parquet with a row a run, or an MLflow tracking URI."),
]
ExperimentOption = Annotated[
    str | None,
    typer.Option("--experiment", help="The experiment, where RUNS is a tracking URI.", rich_help_panel=RUNS_PANEL),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only runs for which this holds: dataset=rpj, 'tokens_per_param<=100'. Repeatable: all must hold.",
        rich_help_panel=RUNS_PANEL,
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="RUN|KIND",
        help="Use a run that would be left out: its id, its row, or a kind of reason (diverged, unfinished, "
        "mid-schedule, ...). Repeatable.",
        rich_help_panel=RUNS_PANEL,
    ),
]
MapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="COLUMN=NAME",
        help="Where a column of the runs table is found: loss=val_loss in a file, n_params=params.model_size in MLflow. "
        "Repeatable.",
        rich_help_panel=RUNS_PANEL,
    ),
]
NColumnOption = Annotated[
    str | None, typer.Option("--n-column", help="Short for --map n_params=...", rich_help_panel=RUNS_PANEL)
]
DColumnOption = Annotated[
    str | None, typer.Option("--d-column", help="Short for --map n_tokens=...", rich_help_panel=RUNS_PANEL)
]
LossColumnOption = Annotated[
    str | None, typer.Option("--loss-column", help="Short for --map loss=...", rich_help_panel=RUNS_PANEL)
]

LawOption = Annotated[
    str,
    typer.Option(
        "--law",
        help=f"{', '.join(law_names())}.",
        rich_help_panel=FIT_PANEL,
    ),
]
ObjectiveOption = Annotated[
    str, typer.Option("--objective", help="huber_log, lad_log, lsq_log or lsq.", rich_help_panel=FIT_PANEL)
]
DeltaOption = Annotated[
    float, typer.Option("--delta", help="Huber's threshold on the log residual.", rich_help_panel=FIT_PANEL)
]
CountingOption = Annotated[
    str,
    typer.Option("--counting", help="n_params, n_params_non_embedding or n_params_matmul.", rich_help_panel=FIT_PANEL),
]
WeightsOption = Annotated[
    str,
    typer.Option(
        "--weights",
        help="column: the table's weight column, 1 where there is none; noise: by the seeds' noise at each size.",
        rich_help_panel=FIT_PANEL,
    ),
]
DropOutliersOption = Annotated[
    bool,
    typer.Option(
        "--drop-outliers", help="Leave out the runs that are otherwise only flagged.", rich_help_panel=FIT_PANEL
    ),
]
DropOffRateOption = Annotated[
    bool,
    typer.Option(
        "--drop-off-rate",
        help="Leave out the sizes that were trained far from the tuned learning rate, which are otherwise only flagged.",
        rich_help_panel=FIT_PANEL,
    ),
]
BootstrapOption = Annotated[
    int,
    typer.Option(
        "--bootstrap", help="Resamples for the intervals, 100 or more; 0 for none.", rich_help_panel=FIT_PANEL
    ),
]
ResamplingOption = Annotated[
    str,
    typer.Option(
        "--resampling",
        help="auto, group, parametric, run or residual; auto takes groups where there are eight or more.",
        rich_help_panel=FIT_PANEL,
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the resampling.", rich_help_panel=FIT_PANEL)]


def runs_query(
    n_column: NColumnOption = None,
    d_column: DColumnOption = None,
    loss_column: LossColumnOption = None,
    mapping: MapOption = None,
    experiment: ExperimentOption = None,
    where: WhereOption = None,
    keep: KeepOption = None,
) -> RunsQuery:
    """How RUNS is read."""
    return RunsQuery(
        columns=columns_of(mapping or (), n_params=n_column, n_tokens=d_column, loss=loss_column),
        experiment=experiment,
        where=tuple(where or ()),
        keep=tuple(keep or ()),
    )


def fit_options(
    law: LawOption = DEFAULTS["law"],
    objective: ObjectiveOption = DEFAULTS["objective"],
    delta: DeltaOption = DEFAULTS["delta"],
    counting: CountingOption = DEFAULTS["counting"],
    weights: WeightsOption = DEFAULTS["weights"],
    drop_outliers: DropOutliersOption = DEFAULTS["drop_outliers"],
    drop_off_rate: DropOffRateOption = DEFAULTS["drop_off_rate"],
    bootstrap: BootstrapOption = DEFAULTS["bootstrap"],
    resampling: ResamplingOption = DEFAULTS["resampling"],
    seed: SeedOption = DEFAULTS["seed"],
) -> FitOptions:
    """How the runs are fitted."""
    if 0 < bootstrap < LEAST_BOOTSTRAP:
        raise UserError(
            f"--bootstrap is {bootstrap}: a 95 % interval can't be read off so few resamples. Ask for {LEAST_BOOTSTRAP} or "
            "more, or 0 for no intervals"
        )
    return FitOptions(
        law=law,
        objective=objective,
        delta=delta,
        counting=counting,
        weights=weights,
        drop_outliers=drop_outliers,
        drop_off_rate=drop_off_rate,
        bootstrap=bootstrap,
        resampling=resampling,
        seed=seed,
    )
