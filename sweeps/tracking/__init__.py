"""MLflow as a mirror of the run folders: followed during a launch, rebuilt by `sync`, shown by `serve_ui`.

Nothing here imports MLflow before it is used.
"""

from sweeps.tracking.mirror import Mirror, MirrorReport
from sweeps.tracking.store import TrackingError
from sweeps.tracking.sync import StudyReport, SyncReport, log_report, sync
from sweeps.tracking.ui import serve_ui
from sweeps.tracking.uri import OFF, check_tracking, default_tracking_uri, masked

__all__ = [
    "OFF",
    "Mirror",
    "MirrorReport",
    "StudyReport",
    "SyncReport",
    "TrackingError",
    "check_tracking",
    "default_tracking_uri",
    "log_report",
    "masked",
    "serve_ui",
    "sync",
]
