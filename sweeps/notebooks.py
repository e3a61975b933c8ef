"""`isoloss plan` and `isoloss launch` as functions: what the command prints is what these return."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.hardware.named_cluster import parse_cluster
from sweeps.hardware.place import named_place, this_place
from sweeps.planning.foresight import foreseen_plans
from sweeps.planning.prepare import Stated, prepare
from sweeps.planning.records import Plan
from sweeps.storage import open_storage

if TYPE_CHECKING:
    from sweeps.launching.result import LaunchResult


def plan(
    sweep: str | Path,
    *,
    cluster: str | None = None,
    price_per_hour: float | None = None,
    mfu: float | None = None,
    target_flops: float | None = None,
    target_loss: float | None = None,
    storage: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Plan:
    """What a sweep would run, cost and tell, on this machine or on a named cluster, as `64xH100`. Its corpus is built if it
    isn't there.

    Raises:
        UserError: the YAML, the corpus, the storage, the cluster or the target is not usable.
    """
    place = this_place() if cluster is None else named_place(parse_cluster(cluster))
    stated = Stated(mfu=mfu, usd_per_gpu_hour=price_per_hour)
    prepared = prepare(str(sweep), open_storage(storage), place, stated=stated, say=say)
    return foreseen_plans([prepared], target_flops=target_flops, target_loss=target_loss)[0]


def launch(
    sweep: str | Path,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
    storage: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> LaunchResult:
    """Run what is missing of a sweep, here or on the standing cluster at `address`. Called again it goes on.

    Raises:
        UserError: the sweep, the storage, the address or the tracking URI is not usable, or another launcher is at work.
    """
    from sweeps.launching.launch import launch_sweep

    return launch_sweep(str(sweep), open_storage(storage), address=address, tracking_uri=tracking_uri, say=say)
