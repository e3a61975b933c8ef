"""The lease on launching a sweep: one launcher at a time, or one after the other."""

from __future__ import annotations

from collections.abc import Callable

from llama.errors import UserError
from llama.lease import Lease, LeaseHeld, acquire
from sweeps.storage import Storage

LAUNCHER_WAIT_SECONDS = 24 * 3600.0


def hold_sweep(storage: Storage, name: str, *, wait: bool, say: Callable[[str], None]) -> Lease:
    """The lease on launching this sweep."""
    try:
        return acquire(storage.sweep(name), attempt=1)
    except LeaseHeld as held:
        who = held.owner.name
        if not wait:
            raise UserError(
                f"sweep {name!r} is being launched by {who}: watch it with `isoloss status {name}`, "
                "or wait for it to end with --wait"
            ) from None
        say(f"waiting for {who}, which is launching this sweep")
        return acquire(storage.sweep(name), attempt=1, wait_seconds=LAUNCHER_WAIT_SECONDS)
