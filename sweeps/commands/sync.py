"""`isoloss sync`: a sweep's MLflow experiment, rebuilt from its run folders."""

from __future__ import annotations

from sweeps.commands.options import StorageOption, SweepArgument, TrackingOption
from sweeps.commands.terminal import say


def sync(sweep: SweepArgument, storage: StorageOption = None, tracking_uri: TrackingOption = None) -> None:
    """Rebuild the sweep's MLflow experiment from its run folders: after an outage, or on another server."""
    from sweeps.reporting import sync_sweep
    from sweeps.storage import open_storage, open_sweep

    sync_sweep(open_sweep(sweep, open_storage(storage)), tracking_uri=tracking_uri, say=say)
