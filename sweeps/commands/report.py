"""`isoloss report`: the study of a sweep or of anyone's runs, as a page, pictures and points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.decisions.options import DecisionOptions
from analysis.fitting.options import FitOptions
from sweeps.commands.decision import decision_options
from sweeps.commands.options import (
    JsonOption,
    RunsArgument,
    StorageOption,
    TrackingOption,
    fit_options,
    runs_query,
)
from sweeps.commands.takes import takes
from sweeps.commands.terminal import note, say
from sweeps.runs_query import RunsQuery


@takes(decision=decision_options, query=runs_query, fitting=fit_options)
def report(
    runs: RunsArgument,
    decision: DecisionOptions,
    query: RunsQuery,
    fitting: FitOptions,
    storage: StorageOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report (default: the sweep's, or ./report).")
    ] = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """The study of a sweep or of anyone's table of runs: report.html, every picture, every plotted point."""
    from sweeps.reporting import STUDY, Asked, report_runs
    from sweeps.storage import open_storage

    asked = Asked(query=query, options={**decision, **fitting})
    path = report_runs(
        runs, open_storage(storage), asked=asked, out=out, tracking_uri=tracking_uri, say=note if as_json else say
    )
    if as_json:
        say((path.parent / STUDY).read_text(encoding="utf-8").rstrip())
