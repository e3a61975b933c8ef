"""`isoloss compare`: two recipes or corpora as a compute multiplier, with its interval."""

from __future__ import annotations

from typing import Annotated

import typer

from analysis.fitting.options import FitOptions
from sweeps.commands.options import (
    RUNS_PANEL,
    JsonOption,
    StorageOption,
    fit_options,
    runs_query,
)
from sweeps.commands.takes import takes
from sweeps.commands.terminal import print_json, say_wrapped
from sweeps.runs_query import RunsQuery, columns_of, open_runs

WhereOfOne = Annotated[
    list[str] | None,
    typer.Option(metavar="CONDITION", help="As --where, for this table alone.", rich_help_panel=RUNS_PANEL),
]
MapOfOne = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN=NAME", help="As --map, for this table alone.", rich_help_panel=RUNS_PANEL),
]
ExperimentOfOne = Annotated[
    str | None,
    typer.Option(help="The experiment, where this table is a tracking URI.", rich_help_panel=RUNS_PANEL),
]


@takes(query=runs_query, fitting=fit_options)
def compare(
    runs_a: Annotated[str, typer.Argument(metavar="RUNS_A", help="A sweep, a .csv or .parquet, or a tracking URI.")],
    runs_b: Annotated[str, typer.Argument(metavar="RUNS_B", help="What to hold against it; it may be the same file.")],
    query: RunsQuery,
    fitting: FitOptions,
    storage: StorageOption = None,
    where_a: WhereOfOne = None,
    where_b: WhereOfOne = None,
    map_a: MapOfOne = None,
    map_b: MapOfOne = None,
    experiment_a: ExperimentOfOne = None,
    experiment_b: ExperimentOfOne = None,
    at_compute: Annotated[
        list[float] | None, typer.Option(help="Training FLOPs of B at which to tell the multiplier. Repeatable.")
    ] = None,
    at_loss: Annotated[list[float] | None, typer.Option(help="Losses at which to tell it instead. Repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """How many times the compute RUNS_A's recipe or corpus needs for what RUNS_B's reaches, with its interval."""
    from analysis.comparing.compare import compare as compare_tables
    from analysis.comparing.describe_comparison import compare_json, describe_comparison

    tables = [
        open_runs(runs, storage, _of_one(query, where, mapping, experiment))
        for runs, where, mapping, experiment in (
            (runs_a, where_a, map_a, experiment_a),
            (runs_b, where_b, map_b, experiment_b),
        )
    ]
    comparison = compare_tables(*tables, at_flops=at_compute or None, at_loss=at_loss or None, **fitting)
    if as_json:
        print_json(compare_json(comparison))
    else:
        say_wrapped(describe_comparison(comparison))


def _of_one(query: RunsQuery, where: list[str] | None, mapping: list[str] | None, experiment: str | None) -> RunsQuery:
    """How both tables are read, and what holds for this one alone."""
    return RunsQuery(
        columns={**query.columns, **columns_of(mapping or ())},
        experiment=experiment or query.experiment,
        where=(*query.where, *(where or ())),
        keep=query.keep,
    )
