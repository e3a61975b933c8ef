"""`isoloss fit`: a law with its intervals and its evidence; frozen forecasts, and what became of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from llama.errors import UserError
from sweeps.commands.options import (
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
    WeightsOption,
    WhereOption,
)
from sweeps.commands.terminal import note, print_json, say

FORECAST_PANEL = "Forecasts"


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
        Literal["1", "2", "3", "all"],
        typer.Option(
            help="3: the loss surface; 2: isoFLOP bowls; 1: the envelope of the losses; all: side by side.",
            rich_help_panel=FIT_PANEL,
        ),
    ] = "3",
    compute: Annotated[
        float | None,
        typer.Option(
            help="Training FLOPs at which the approaches are compared (default: 10x the largest run's).",
            rich_help_panel=FIT_PANEL,
        ),
    ] = None,
    objective: ObjectiveOption = "huber_log",
    delta: DeltaOption = 1e-3,
    counting: CountingOption = "n_params",
    convert_to: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Tell the law in another count of N as well, with the error of the conversion.",
            rich_help_panel=FIT_PANEL,
        ),
    ] = None,
    weights: WeightsOption = "column",
    drop_outliers: DropOutliersOption = False,
    bootstrap: BootstrapOption = 1000,
    resampling: ResamplingOption = "auto",
    seed: SeedOption = 0,
    freeze: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the law and its forecasts of unfinished and held-out runs, with their hash.",
            rich_help_panel=FORECAST_PANEL,
        ),
    ] = None,
    forecast: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N,D",
            help="Another model to forecast in the frozen file: 7e9,2e12. Repeatable.",
            rich_help_panel=FORECAST_PANEL,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Hold a frozen file's forecasts against these runs instead of fitting them.",
            rich_help_panel=FORECAST_PANEL,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law to a sweep's runs, or to anyone's table, with intervals and held-out error."""
    from analysis import fit as fit_law
    from sweeps.runs_query import open_runs

    cells = [_cell(text) for text in forecast or ()]
    if cells and freeze is None:
        raise UserError("--forecast names a model for the frozen file: name that file with --freeze")
    if against is not None and freeze is not None:
        raise UserError("--freeze writes forecasts and --against holds older ones against these runs: do one at a time")
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
    if against is not None:
        from analysis.forecasts.forecast_check import check_forecasts, check_json, describe_check
        from analysis.forecasts.freeze import read_frozen

        checked = check_forecasts(read_frozen(against), table)
        print_json(check_json(checked)) if as_json else say("\n".join(describe_check(checked)))
        return
    if approach != "3":
        from analysis.fitting.fit_json import approaches_json, fit_json
        from analysis.optima.approaches import approach as one_approach
        from analysis.optima.approaches import approaches
        from analysis.optima.describe_approaches import describe_approaches

        numbers: dict[str, Literal[1, 2]] = {"1": 1, "2": 2}
        ask = partial(one_approach, number=numbers[approach]) if approach in numbers else approaches
        found = ask(
            table,
            flops=compute,
            law=law,
            objective=objective,
            delta=delta,
            counting=counting,
            bootstrap=bootstrap,
            seed=seed,
        )
        if as_json:
            print_json(fit_json(found) if approach in numbers else approaches_json(found))
        else:
            say(describe_approaches(found))
        return
    from analysis.counting import convert_law
    from analysis.describe_counting import conversion_json, describe_conversion
    from analysis.downstream.of_runs import describe_downstream, downstream_json, downstream_results
    from analysis.fitting.describe_fit import describe_fit
    from analysis.fitting.extrapolation import expanding_window
    from analysis.fitting.fit_json import fit_json
    from analysis.fitting.residual_structure import residual_structure

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
    structure = residual_structure(fitted)
    extrapolation, untested = None, None
    try:
        extrapolation = expanding_window(table, fitted)
    except UserError as refused:
        untested = str(refused)
    frozen = None
    if freeze is not None:
        from analysis.forecasts.freeze import describe_frozen
        from analysis.forecasts.freeze import freeze as write_frozen

        frozen = write_frozen(fitted, table, freeze, cells=cells, extrapolation=extrapolation)
        for line in describe_frozen(frozen):
            (note if as_json else say)(line)
    converted = None if convert_to is None else convert_law(fitted, table, convert_to)
    downstream = downstream_results(table, bootstrap=bootstrap, seed=seed)
    if as_json:
        document = fit_json(fitted, structure=structure, extrapolation=extrapolation)
        document["extrapolation_absent"] = untested
        document["converted"] = None if converted is None else conversion_json(converted)
        print_json({**document, "downstream": downstream_json(downstream)})
    else:
        say(describe_fit(fitted, structure=structure, extrapolation=extrapolation))
        if untested is not None:
            say(f"How far the law extrapolates can't be tested: {untested}")
        for line in (*(() if converted is None else describe_conversion(converted)), *describe_downstream(downstream)):
            say(line)


def _cell(text: str) -> tuple[float, float]:
    try:
        n_params, n_tokens = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--forecast {text!r} is not N,D, such as 7e9,2e12") from None
    return n_params, n_tokens
