"""MLflow as a mirror of the run folders: followed during a launch, rebuilt by `sync`, shown by `serve_ui`.

Nothing here imports MLflow before it is used.
"""

from sweeps.tracking.mirror import Mirror, MirrorReport
from sweeps.tracking.store import TrackingError
from sweeps.tracking.sync import SyncReport, log_parent_artifacts, sync
from sweeps.tracking.ui import serve_ui
from sweeps.tracking.uri import check_tracking, default_tracking_uri, masked

__all__ = [
    "Mirror",
    "MirrorReport",
    "SyncReport",
    "TrackingError",
    "check_tracking",
    "default_tracking_uri",
    "log_parent_artifacts",
    "masked",
    "serve_ui",
    "sync",
]
