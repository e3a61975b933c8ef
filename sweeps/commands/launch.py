"""`isoloss launch`: run what is missing of a sweep."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.commands.options import (
    AddressOption,
    CalibrateOption,
    JsonOption,
    StorageOption,
    SweepArgument,
    TrackingOption,
)
from sweeps.commands.terminal import note, print_json, say


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
