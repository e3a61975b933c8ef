"""`isoloss quickstart`: a whole study on the machine at hand, through the same parts as any other sweep."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

from sweeps.hardware.place import this_place
from sweeps.launching.launch import launch_sweep
from sweeps.reporting import report_sweep
from sweeps.storage import Storage, open_sweep
from sweeps.words import duration


def run_quickstart(out: Path, *, tracking_uri: str | None, say: Callable[[str], None]) -> None:
    """Run the study that ships with isoloss into `out`: on a GPU, where there is one, its larger sister."""
    started = time.monotonic()
    storage = Storage(out.expanduser().resolve())
    study = "quickstart-gpu" if this_place().gpus else "quickstart"
    with as_file(files("sweeps") / "studies" / f"{study}.yaml") as yaml_path:
        launched = launch_sweep(str(yaml_path), storage, tracking_uri=tracking_uri, calibrate=True, say=say)
    say(launched.summary)
    report = report_sweep(open_sweep(launched.sweep, storage), tracking_uri=tracking_uri, say=say)
    say(f"everything is in {storage.root}; done in {duration(time.monotonic() - started)}")
    say(f"look at the runs in MLflow:  isoloss ui --storage {out}")
    say(f"open the report:             {report.as_uri()}")
