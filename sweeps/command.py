"""The `isoloss` command. Each command imports what it needs when it runs, so that help and plans start at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llama.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

PLAIN_WIDTH = 130

app = typer.Typer(
    name="isoloss",
    help="Plan, train, fit and decide over families of LLaMA runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's YAML, its folder, or its name.")]
RunsArgument = Annotated[str, typer.Argument(metavar="RUNS", help="A sweep, a .csv or a .parquet of runs.")]
StorageOption = Annotated[
    Path | None, typer.Option("--storage", help="Storage root (default: ISOLOSS_STORAGE, else ./isoloss-data).")
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", help="MLflow server or store (default: MLFLOW_TRACKING_URI, else SQLite in the storage)."
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="A standing Ray cluster: auto, or host:port (default: a Ray of its own)."),
]
CalibrateOption = Annotated[
    bool, typer.Option("--calibrate", help="Measure how fast this machine trains each size first, and remember it.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder for the report (default: the sweep's, or ./report).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the study makes.")] = Path("quickstart"),
    tracking_uri: TrackingOption = None,
) -> None:
    """A whole study on this machine, on real text, in minutes: runs, MLflow, fit, report."""
    from sweeps.quickstart import run_quickstart

    run_quickstart(out, tracking_uri=tracking_uri, say=_say)


@app.command()
def plan(
    sweep: SweepArgument,
    storage: StorageOption = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure how fast this machine trains each size first, and remember it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What a sweep would run and cost, before anything is spent."""
    from sweeps.plan_table import render
    from sweeps.prepare import prepare, this_place
    from sweeps.storage import open_storage

    place = this_place()
    prepared = prepare(sweep, open_storage(storage), place, say=_note)
    if calibrate:
        from cluster.local_executor import LocalExecutor
        from sweeps.measuring import calibrate_shapes

        with LocalExecutor() as executor:
            prepared = calibrate_shapes(prepared, place, executor, say=_note)
    if as_json:
        _print_json(prepared.plan.model_dump(mode="json"))
    else:
        _print_table(render(prepared.plan))


@app.command()
def launch(
    sweep: SweepArgument,
    storage: StorageOption = None,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure how fast this machine trains each size first, and remember it.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another launcher of this sweep to end.")] = False,
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Measure what serving costs again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run what is missing of a sweep, with a live table. The same command goes on after any interruption."""
    from sweeps.launch import launch_sweep
    from sweeps.storage import open_storage

    result = launch_sweep(
        sweep,
        open_storage(storage),
        address=address,
        tracking_uri=tracking_uri,
        calibrate=calibrate,
        wait=wait,
        remeasure=remeasure,
        say=_note if as_json else _say,
    )
    if as_json:
        _print_json(result.model_dump(mode="json"))
    else:
        _say(result.summary)
        _say(f"what they say:  isoloss report {sweep}" + (f" --storage {storage}" if storage else ""))
    if result.failed:
        raise typer.Exit(1)


@app.command()
def status(sweep: SweepArgument, storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """Which runs of a sweep are finished, running, waiting, failed or diverged, and why."""
    from sweeps.live import status_table
    from sweeps.status import sweep_status
    from sweeps.storage import open_storage, open_sweep

    found = sweep_status(open_sweep(sweep, open_storage(storage)))
    if as_json:
        _print_json(found.model_dump(mode="json"))
    else:
        _print_table(status_table(found))


@app.command()
def sync(sweep: SweepArgument, storage: StorageOption = None, tracking_uri: TrackingOption = None) -> None:
    """Rebuild the sweep's MLflow experiment from its run folders: after an outage, or on another server."""
    from sweeps.reporting import sync_sweep
    from sweeps.storage import open_storage, open_sweep

    sync_sweep(open_sweep(sweep, open_storage(storage)), tracking_uri=tracking_uri, say=_say)


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

    serve_ui(default_tracking_uri(open_storage(storage).root, tracking_uri), host=host, port=port, say=_say)


@app.command()
def fit(
    runs: RunsArgument,
    storage: StorageOption = None,
    objective: Annotated[str, typer.Option(help="huber_log, lad_log, lsq_log or lsq.")] = "huber_log",
    delta: Annotated[float, typer.Option(help="Huber's threshold on the log residual.")] = 1e-3,
    counting: Annotated[str, typer.Option(help="n_params, n_params_non_embedding or n_params_matmul.")] = "n_params",
    bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals; 0 for none.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
    n_column: Annotated[str, typer.Option(help="The table's column of parameters.")] = "n_params",
    d_column: Annotated[str, typer.Option(help="The table's column of training tokens.")] = "n_tokens",
    loss_column: Annotated[str, typer.Option(help="The table's column of final losses.")] = "loss",
    as_json: JsonOption = False,
) -> None:
    """Fit the Chinchilla law to a sweep's runs, or to anyone's table, with intervals and held-out error."""
    from analysis import fit as fit_law
    from analysis import load_runs
    from analysis.answer import describe_fit
    from analysis.fit_json import fit_json
    from sweeps.reporting import is_table
    from sweeps.storage import open_storage, open_sweep

    columns = {"n_params": n_column, "n_tokens": d_column, "loss": loss_column}
    source = runs if is_table(runs) else open_sweep(runs, open_storage(storage)).folder
    table = load_runs(source, columns=columns if is_table(runs) else None)
    fitted = fit_law(table, objective=objective, delta=delta, counting=counting, bootstrap=bootstrap, seed=seed)
    if as_json:
        _print_json(fit_json(fitted))
    else:
        _say(describe_fit(fitted))


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

    report_runs(runs, open_storage(storage), out=out, tracking_uri=tracking_uri, say=_say)


def _say(line: str) -> None:
    print(line, flush=True)


def _note(line: str) -> None:
    """Progress beside a result: on stderr, so that --json can be piped."""
    print(line, file=sys.stderr, flush=True)


def _print_table(table: RenderableType) -> None:
    """Where the output is no terminal its width is unknown: wide enough for every column."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, allow_nan=False))


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 work failed, 2 bad input, 130 interrupted."""
    try:
        app()
    except UserError as error:
        _note(f"isoloss: {error}")
        sys.exit(2)
    except SystemExit as leave:
        if leave.code == 130:
            _note("isoloss: interrupted; nothing finished is lost, the same command goes on from here")
        raise
