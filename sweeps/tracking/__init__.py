"""MLflow as a mirror of the run folders: followed during a launch, rebuilt by `sync`, shown by `serve_ui`.

Nothing here imports MLflow before it is used.
"""

from sweeps.tracking.mirror import Mirror
from sweeps.tracking.store import TrackingError
from sweeps.tracking.sync import StudyReport, log_report, sync
from sweeps.tracking.ui import serve_ui
from sweeps.tracking.uri import check_tracking, default_tracking_uri

__all__ = [
    "Mirror",
    "StudyReport",
    "TrackingError",
    "check_tracking",
    "default_tracking_uri",
    "log_report",
    "serve_ui",
    "sync",
]
