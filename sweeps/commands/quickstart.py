"""`isoloss quickstart`: a whole study on this machine, with no input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.commands.options import TrackingOption
from sweeps.commands.terminal import say


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the study makes.")] = Path("quickstart"),
    tracking_uri: TrackingOption = None,
) -> None:
    """A whole study on this machine, on real text, in minutes: runs, MLflow, fit, report."""
    from sweeps.quickstart import run_quickstart

    run_quickstart(out, tracking_uri=tracking_uri, say=say)
