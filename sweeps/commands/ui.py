"""`isoloss ui`: MLflow's own UI on the sweeps' store."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.commands.options import StorageOption, TrackingOption
from sweeps.commands.terminal import say


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
