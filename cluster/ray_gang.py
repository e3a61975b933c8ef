"""Gangs on Ray: room for all members or for none through a placement group, and a place in the cluster's key-value store where
they report in and are let go. Members are plain tasks, like every other attempt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_put,
)
from ray.util.placement_group import PlacementGroup, placement_group

from cluster.gang import free_port
from cluster.task import Member

_LOOK_SECONDS = 0.1


def reserve(node_ids: Sequence[str], *, cpus: float, gpus: float) -> PlacementGroup:
    """A bundle for each member, on the node that the supervisor chose for it. Ray gives all of them, or waits with all."""
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    return placement_group(
        [bundle] * len(node_ids),
        strategy="STRICT_PACK" if len(set(node_ids)) == 1 else "PACK",
        bundle_label_selector=[{"ray.io/node-id": id} for id in node_ids],
    )


def join(key: str, rank: int, world_size: int) -> Member:
    """In a member: report in, and wait until all have. One that is not wanted any more is killed as it waits."""
    _internal_kv_put(f"{key}/{rank}", str(free_port()).encode())
    while (rendezvous := _internal_kv_get(f"{key}/go")) is None:
        time.sleep(_LOOK_SECONDS)
    return Member(rank=rank, world_size=world_size, rendezvous=rendezvous.decode())


def reported_port(key: str, rank: int) -> int | None:
    """The port that the member found free, once it has reported in."""
    said = _internal_kv_get(f"{key}/{rank}")
    return None if said is None else int(said)


def let_go(key: str, rendezvous: str) -> None:
    _internal_kv_put(f"{key}/go", rendezvous.encode())


def forget(key: str) -> None:
    _internal_kv_del(f"{key}/", del_by_prefix=True)
