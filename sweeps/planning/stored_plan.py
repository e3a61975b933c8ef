"""The plan as it stood when a sweep was first launched, kept so that it can be held against what happened."""

from __future__ import annotations

from pathlib import Path

from llama.records import Record, now_ms, read_record, write_record
from sweeps.planning.records import Plan
from sweeps.storage import Storage


class StoredPlan(Record):
    """A plan and when it was made."""

    unix_ms: int
    finished_runs: int
    """Of the sweep, by then: an enlarged sweep is planned anew, with what its first runs told."""
    plan: Plan


def keep_plan(storage: Storage, plan: Plan, *, finished_runs: int) -> None:
    """Keep the first plan of this content of the sweep; a later one changes nothing."""
    path = _path(storage, plan.sweep, plan.sweep_id)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_record(path, StoredPlan(unix_ms=now_ms(), finished_runs=finished_runs, plan=plan))


def read_plan(storage: Storage, sweep: str, sweep_id: str) -> StoredPlan | None:
    """None for a sweep that was launched before plans were kept, or never."""
    return read_record(_path(storage, sweep, sweep_id), StoredPlan)


def _path(storage: Storage, sweep: str, sweep_id: str) -> Path:
    return storage.sweep(sweep) / "plans" / f"{sweep_id}.json"
