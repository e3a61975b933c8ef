"""`isoloss status`: what every run of a sweep does, and why."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.commands.options import JsonOption, StorageOption, SweepArgument
from sweeps.commands.terminal import print_json, print_table


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
