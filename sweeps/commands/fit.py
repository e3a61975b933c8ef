"""`isoloss fit`: a law with its intervals and its evidence; frozen forecasts, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from analysis.fitting.options import DEFAULTS, FitOptions
from llama.errors import UserError
from sweeps.commands.options import FIT_PANEL, JsonOption, RunsArgument, StorageOption, fit_options, runs_query
from sweeps.commands.takes import takes
from sweeps.commands.terminal import note, print_json, say_wrapped
from sweeps.runs_query import RunsQuery, open_runs

if TYPE_CHECKING:
    from analysis.runs.table import RunTable

T = TypeVar("T")
FORECAST_PANEL, COUNTS_PANEL = "Forecasts", "Counts of N"


@takes(query=runs_query, fitting=fit_options)
def fit(
    runs: RunsArgument,
    query: RunsQuery,
    fitting: FitOptions,
    storage: StorageOption = None,
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
    convert_to: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Tell the law in another count of N as well, with the error of the conversion.",
            rich_help_panel=COUNTS_PANEL,
        ),
    ] = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(
            help="Of the runs' tokenizer: works out counts that the runs lack, from their width and depth.",
            rich_help_panel=COUNTS_PANEL,
        ),
    ] = None,
    tied_head: Annotated[
        bool,
        typer.Option("--tied-head", help="Their head shares the embeddings' weights.", rich_help_panel=COUNTS_PANEL),
    ] = False,
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
    own = {"--convert-to": convert_to, "--freeze": freeze, "--forecast": forecast}
    asked: dict[str, object]
    if against is not None:
        asked = {f"--{name.replace('_', '-')}": fitting[name] != DEFAULTS[name] for name in DEFAULTS}  # type: ignore[literal-required]
        asked |= {"--approach": approach != "3", "--compute": compute}
        _refuse("--against", {**own, **asked}, "holds a frozen law against these runs and fits none")
    elif approach != "3":
        asked = {}
        if approach != "all" and not fitting["drop_outliers"]:
            asked = {f"--{name}": fitting[name] != DEFAULTS[name] for name in ("law", "objective", "delta")}
        _refuse(f"--approach {approach}", {**own, **asked}, "fits power laws of optima, which these are not for")
    elif compute is not None:
        raise UserError("--compute is where the approaches are compared: name --approach 1, 2 or all with it")
    if vocab_size is not None and convert_to is None:
        raise UserError("--vocab-size works counts out for --convert-to: name that too")
    if tied_head and vocab_size is None:
        raise UserError("--tied-head says how --vocab-size counts: name that too")
    cells = [_cell(text) for text in forecast or ()]
    if cells and freeze is None:
        raise UserError("--forecast names a model for the frozen file: name that file with --freeze")
    table = open_runs(runs, storage, query)
    if against is not None:
        _hold_against(table, against, as_json)
    elif approach != "3":
        _read_optima(table, approach, compute, fitting, as_json)
    else:
        convert = None if convert_to is None else (convert_to, vocab_size, tied_head)
        _fit_law(table, fitting, convert, freeze, cells, as_json)


def _refuse(one: str, others: Mapping[str, object], why: str) -> None:
    """Options that make no sense together are refused, both by name, rather than one of them dropped in silence."""
    named = [name for name, value in others.items() if value not in (None, False, [])]
    if named:
        raise UserError(f"{one} {why}: leave out {' and '.join(named)}, or {one}")


def _cell(text: str) -> tuple[float, float]:
    try:
        n_params, n_tokens = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--forecast {text!r} is not N,D, such as 7e9,2e12") from None
    return n_params, n_tokens


def _hold_against(table: RunTable, frozen: Path, as_json: bool) -> None:
    from analysis.forecasts.describe_forecasts import check_json, describe_check
    from analysis.forecasts.forecast_check import check_forecasts
    from analysis.forecasts.freeze import read_frozen

    checked = check_forecasts(read_frozen(frozen), table)
    if as_json:
        print_json(check_json(checked))
    else:
        say_wrapped(describe_check(checked))


def _read_optima(
    table: RunTable,
    asked: Literal["1", "2", "all"],
    flops: float | None,
    fitting: FitOptions,
    as_json: bool,
) -> None:
    """Approach 1 or 2 alone, or all three side by side."""
    from analysis.fitting.fit_json import approaches_json, fit_json
    from analysis.optima.approaches import approach, approaches
    from analysis.optima.describe_approaches import describe_approaches

    if asked == "all":
        found = approaches(table, flops=flops, **fitting)
    else:
        found = approach(table, 1 if asked == "1" else 2, flops=flops, **fitting)
    if as_json:
        print_json(approaches_json(found) if asked == "all" else fit_json(found))
    else:
        say_wrapped(describe_approaches(found).splitlines())


def _fit_law(
    table: RunTable,
    fitting: FitOptions,
    convert: tuple[str, int | None, bool] | None,
    freeze: Path | None,
    cells: Sequence[tuple[float, float]],
    as_json: bool,
) -> None:
    """The law, what it says in another count, of FLOPs and downstream, and its forecasts in a file of their own."""
    from analysis.counting import against_six_nd, convert_law
    from analysis.describe_counting import conversion_json, describe_conversion, describe_flops_rule, flops_rule_json
    from analysis.downstream.describe_downstream import describe_downstream, downstream_json
    from analysis.downstream.of_runs import downstream_results
    from analysis.fitting.describe_fit import describe_fit
    from analysis.fitting.extrapolation import expanding_window
    from analysis.fitting.fit import fit as fit_law
    from analysis.fitting.fit_json import fit_json
    from analysis.fitting.residual_structure import residual_structure
    from analysis.forecasts.describe_forecasts import describe_frozen, frozen_json
    from analysis.forecasts.freeze import freeze as write_frozen

    fitted = fit_law(table, **fitting)
    structure = residual_structure(fitted)
    extrapolation, untested = _or_why(lambda: expanding_window(table, fitted))
    rule, _ = _or_why(lambda: against_six_nd(fitted, table))
    converted = None
    if convert is not None:
        to_rule, vocab_size, tied_head = convert
        converted = convert_law(fitted, table, to_rule, vocab_size=vocab_size, tied_head=tied_head)
    downstream = downstream_results(table, bootstrap=fitting["bootstrap"], seed=fitting["seed"])
    frozen = None if freeze is None else write_frozen(fitted, table, freeze, cells=cells, extrapolation=extrapolation)
    if as_json:
        if frozen is not None:
            note(f"wrote {frozen.path}, SHA-256 {frozen.sha256}")
        print_json(
            {
                **fit_json(fitted, structure=structure, extrapolation=extrapolation),
                "extrapolation_absent": untested,
                "flops_rule": None if rule is None else flops_rule_json(rule),
                "converted": None if converted is None else conversion_json(converted),
                "frozen": None if frozen is None else frozen_json(frozen),
                "downstream": downstream_json(downstream),
            }
        )
        return
    lines = describe_fit(fitted, structure=structure, extrapolation=extrapolation).splitlines()
    if untested is not None:
        lines.append(f"How far the law extrapolates can't be tested: {untested}")
    lines += () if rule is None else describe_flops_rule(rule)
    lines += () if converted is None else describe_conversion(converted)
    lines += describe_downstream(downstream)
    lines += () if frozen is None else describe_frozen(frozen)
    say_wrapped(lines)


def _or_why(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `work` gives, or why these runs don't give it."""
    try:
        return work(), None
    except UserError as refused:
        return None, str(refused)
