"""`isoloss tune`: Optuna's searches over learning rates and batches, or over shapes."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.commands.options import AddressOption, JsonOption, StorageOption, TrackingOption
from sweeps.commands.terminal import note, print_json, say


def tune(
    sweep: Annotated[
        str, typer.Argument(metavar="SWEEP", help="A sweep's YAML with a block tune, its folder, or its name.")
    ],
    storage: StorageOption = None,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another launcher of this study to end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Search learning rates and batches by size and horizon, or shapes at fixed compute. The same command goes on after any
    interruption.
    """
    from sweeps.storage import open_storage
    from sweeps.tuning.training import TrialsFailed
    from sweeps.tuning.tune import tune_sweep

    tell = note if as_json else say
    try:
        tuned = tune_sweep(
            sweep, open_storage(storage), address=address, tracking_uri=tracking_uri, wait=wait, say=tell
        )
    except TrialsFailed as failed:
        note(f"isoloss: {failed}")
        raise typer.Exit(1) from None
    if as_json:
        print_json(tuned.study.model_dump(mode="json"))
    else:
        say(tuned.summary)
    if tuned.mirror_trouble is not None:
        note(tuned.mirror_trouble)
