"""Whether a run's folder has changed since it was last looked at, for a few stats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from llama.records import CONFIG, DONE, FAILURE, INFERENCE, JOURNAL
from llama.sweep_index import SweepIndex, SweepRun
from sweeps.tracking.evidence import newest_complete_step, stamp

Signature = tuple[object, ...]


class Signatures:
    """Of the runs of one sweep."""

    def __init__(self, storage: Path, index: SweepIndex) -> None:
        self._runs_folder = storage / "runs"
        self._index = index
        self._branches = index.branches_by_trunk()

    def of(self, run: SweepRun, *, live: bool) -> Signature:
        """Of a run that is done, its files' stamps; of another its latest checkpoint too, and what hangs on others: how many
        branches have begun, and whether a launcher lives. Empty where no run has begun.
        """
        folder = self._runs_folder / run.key
        if stamp(folder / CONFIG) is None:
            return ()
        stamps = [stamp(folder / name) for name in (DONE, INFERENCE, FAILURE)]
        if stamps[0] is not None:
            return (*stamps, stamp(folder / JOURNAL))
        begun = sum(
            stamp(self._runs_folder / branch.key / CONFIG) is not None for branch in self._branches.get(run.key, [])
        )
        return (*stamps, newest_complete_step(folder), begun, live)

    def all(self, *, live: bool) -> dict[str, Signature]:
        return {run.key: self.of(run, live=live) for run in self._index.runs}

    def digest(self, by_key: Mapping[str, Signature]) -> str:
        """Of runs so signed, of what the index says of them, and of the isoloss that would mirror them."""
        signed = [version("isoloss"), self._index.model_dump(mode="json"), sorted(by_key.items())]
        return sha256(json.dumps(signed).encode()).hexdigest()[:16]
