"""The `isoloss` command, put together. Commands import what they need when they run, so that help and plans start at once."""

from __future__ import annotations

import sys

import typer

from llama.errors import UserError
from sweeps.commands import corpus
from sweeps.commands.compare import compare
from sweeps.commands.control import cancel, pause, resume
from sweeps.commands.export import export
from sweeps.commands.fit import fit
from sweeps.commands.launch import launch
from sweeps.commands.next import next_command
from sweeps.commands.plan import plan
from sweeps.commands.quickstart import quickstart
from sweeps.commands.recommend import recommend
from sweeps.commands.report import report
from sweeps.commands.status import status
from sweeps.commands.sync import sync
from sweeps.commands.terminal import note
from sweeps.commands.tune import tune
from sweeps.commands.ui import ui

app = typer.Typer(
    name="isoloss",
    help="Plan, train, fit and decide over families of LLaMA runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(corpus.app, name="corpus")
for _command in (
    quickstart,
    launch,
    status,
    sync,
    ui,
    tune,
    pause,
    resume,
    cancel,
    plan,
    fit,
    recommend,
    compare,
    report,
    export,
):
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
