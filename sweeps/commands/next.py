"""`isoloss next`: which runs would narrow a decision most for what they cost, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from analysis.decisions.options import DecisionOptions
from analysis.fitting.options import FitOptions
from llama.errors import UserError
from sweeps.commands.decision import decision_options
from sweeps.commands.options import JsonOption, RunsArgument, StorageOption, fit_options, runs_query
from sweeps.commands.takes import takes
from sweeps.commands.terminal import note, print_json, print_table, say, say_wrapped
from sweeps.runs_query import RunsQuery, is_table, open_runs

if TYPE_CHECKING:
    from rich.table import Table

    from analysis.next.candidates import Candidates, Size
    from analysis.results import Fit
    from analysis.results.next_runs import NextRuns

NEXT_PANEL = "The next runs"
#: In place of a file: the sweep's own runs.
MISSING = Path("missing")


@takes(decision=decision_options, query=runs_query, fitting=fit_options)
def next_command(
    runs: RunsArgument,
    decision: DecisionOptions,
    query: RunsQuery,
    fitting: FitOptions,
    narrow: Annotated[
        Literal["n", "d", "loss", "dollars"],
        typer.Option(
            help="What to narrow: the choice's size, its tokens, its loss or its cost.", rich_help_panel=NEXT_PANEL
        ),
    ] = "n",
    candidates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv|missing",
            help="Runs to choose from: a file with n_params, n_tokens, optional flops and name, or the sweep's own unfinished "
            "ones (default: a grid of its sizes and their neighbours).",
            rich_help_panel=NEXT_PANEL,
        ),
    ] = None,
    number: Annotated[
        int | None, typer.Option("--runs", help="How many runs to name (default: 8).", rich_help_panel=NEXT_PANEL)
    ] = None,
    spend: Annotated[
        float | None,
        typer.Option(help="Training FLOPs to spend on them, in place of --runs.", rich_help_panel=NEXT_PANEL),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write next-runs.png, .svg and .csv there.", rich_help_panel=NEXT_PANEL),
    ] = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """The runs to make next: each with the interval expected after it, and whether more would change the choice."""
    from analysis.next.describe_next import cells_yaml, describe_next, next_json
    from analysis.next.suggest import next_runs

    question = {name: value for name, value in decision.items() if name not in ("sizes", "members")}
    for option, value in (("--size", decision["sizes"]), ("--family", decision["members"])):
        if value:
            raise UserError(f"{option} is for isoloss recommend: the next runs are judged by one model's choice")
    found = next_runs(
        open_runs(runs, storage, query),
        narrow=narrow,
        candidates=_offered(runs, candidates, storage, fitting),
        runs=number,
        spend=spend,
        **question,  # type: ignore[arg-type]
        **fitting,
    )
    if picture is not None:
        from analysis.plots.gallery import save_picture
        from analysis.plots.next_runs import next_runs_picture

        note(f"wrote {save_picture(next_runs_picture(found), picture).png}")
    if as_json:
        print_json(next_json(found))
        return
    first, *rest = describe_next(found)
    say_wrapped([first])
    print_table(_table(found))
    say_wrapped(rest)
    for line in cells_yaml(found):
        say(line)


def _offered(
    runs: str, candidates: Path | None, storage: Path | None, fitting: FitOptions
) -> Path | list[Size] | Callable[[Fit], Candidates] | None:
    """What `next_runs` takes for the candidates that were asked for; a sweep's grid is of shapes that its ladder can make."""
    if is_table(runs):
        if candidates == MISSING:
            raise UserError(
                f"--candidates {MISSING} names a sweep's unfinished runs, and {runs} is a table: name a file"
            )
        return candidates
    from sweeps.planning.next_candidates import ladder_sizes, missing_runs
    from sweeps.storage import open_storage, open_sweep

    where = open_storage(storage)
    if candidates == MISSING:
        from sweeps.hardware.place import this_place
        from sweeps.planning.prepare import prepare

        prepared = prepare(runs, where, this_place(), say=note)
        return partial(missing_runs, prepared.design, prepared.storage)
    return candidates or ladder_sizes(open_sweep(runs, where), fitting["counting"])


def _table(found: NextRuns) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from analysis.next.describe_next import WHAT, shown
    from analysis.words import count, flops, seconds

    table = Table(box=SIMPLE_HEAD)
    what, show = WHAT[found.narrow], shown(found)
    for head in (
        "",
        "parameters",
        "tokens",
        "FLOPs",
        "spent",
        f"{what} expected then",
        "variance left",
        "expected saving",
    ):
        table.add_column(head, justify="right")
    for k, step in enumerate(found.chosen, start=1):
        table.add_row(
            str(k),
            count(step.run.n_params),
            count(step.run.n_tokens),
            flops(step.run.flops).removesuffix(" FLOPs"),
            flops(step.spent_flops).removesuffix(" FLOPs"),
            f"{show(step.ci95.lo)} to {show(step.ci95.hi)}",
            f"{step.left:.0%}",
            seconds(step.saving, found.costs.unit),
        )
    return table
