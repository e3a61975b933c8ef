"""The `isoloss` command. Each command imports what it needs when it runs, so that help and plans start at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llama.errors import UserError
from sweeps.commands import corpus
from sweeps.commands.compare import compare
from sweeps.commands.control import cancel, pause, resume
from sweeps.commands.export import export
from sweeps.commands.fit import fit
from sweeps.commands.next import next_command
from sweeps.commands.options import (
    AddressOption,
    CalibrateOption,
    JsonOption,
    StorageOption,
    SweepArgument,
    TrackingOption,
)
from sweeps.commands.plan import plan
from sweeps.commands.recommend import recommend
from sweeps.commands.report import report
from sweeps.commands.terminal import note, print_json, print_table, say
from sweeps.commands.tune import tune

app = typer.Typer(
    name="isoloss",
    help="Plan, train, fit and decide over families of LLaMA runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the study makes.")] = Path("quickstart"),
    tracking_uri: TrackingOption = None,
) -> None:
    """A whole study on this machine, on real text, in minutes: runs, MLflow, fit, report."""
    from sweeps.quickstart import run_quickstart

    run_quickstart(out, tracking_uri=tracking_uri, say=say)


@app.command()
def launch(
    sweep: SweepArgument,
    storage: StorageOption = None,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    calibrate: CalibrateOption = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another launcher of this sweep to end.")] = False,
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Measure what serving costs again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run what is missing of a sweep, with a live table. The same command goes on after any interruption."""
    from sweeps.launching.launch import launch_sweep
    from sweeps.storage import open_storage

    result = launch_sweep(
        sweep,
        open_storage(storage),
        address=address,
        tracking_uri=tracking_uri,
        calibrate=calibrate,
        wait=wait,
        remeasure=remeasure,
        say=note if as_json else say,
    )
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        say(result.summary)
        say(f"what they say:  isoloss report {sweep}" + (f" --storage {storage}" if storage else ""))
    if result.failed:
        raise typer.Exit(1)


@app.command()
def status(
    sweep: SweepArgument,
    run: Annotated[
        str | None, typer.Option("--run", metavar="NAME", help="One run in detail: attempts, files, last losses.")
    ] = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """What every run of a sweep does, why it waits, failed or is suspect, and what its final loss may be."""
    from sweeps.storage import open_storage, open_sweep
    from sweeps.watching.run_detail import run_detail
    from sweeps.watching.status import sweep_status
    from sweeps.watching.status_table import run_page, status_table

    folder = open_sweep(sweep, open_storage(storage))
    found = sweep_status(folder)
    detail = None if run is None else run_detail(folder, found, run)
    if as_json:
        print_json((found if detail is None else detail).model_dump(mode="json"))
    else:
        print_table(status_table(found) if detail is None else run_page(detail))


@app.command()
def sync(sweep: SweepArgument, storage: StorageOption = None, tracking_uri: TrackingOption = None) -> None:
    """Rebuild the sweep's MLflow experiment from its run folders: after an outage, or on another server."""
    from sweeps.reporting import sync_sweep
    from sweeps.storage import open_storage, open_sweep

    sync_sweep(open_sweep(sweep, open_storage(storage)), tracking_uri=tracking_uri, say=say)


@app.command()
def ui(
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 5000,
) -> None:
    """The MLflow UI on the store that the sweeps use, on loopback."""
    from sweeps.storage import open_storage
    from sweeps.tracking import default_tracking_uri, serve_ui

    serve_ui(default_tracking_uri(open_storage(storage).root, tracking_uri), host=host, port=port, say=say)


app.add_typer(corpus.app, name="corpus")
for _command in (tune, pause, resume, cancel, plan, fit, recommend, compare, report, export):
    app.command()(_command)
app.command("next")(next_command)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 work failed, 2 bad input, 130 interrupted, 138 and 143 asked to leave
    by SIGUSR1 and SIGTERM."""
    try:
        app()
    except UserError as error:
        note(f"isoloss: {error}")
        sys.exit(2)
    except SystemExit as leave:
        if leave.code in (130, 138, 143):
            note("isoloss: interrupted; nothing finished is lost, the same command goes on from here")
        raise
