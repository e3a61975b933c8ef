"""The index of a sweep, `<storage>/sweeps/<name>/runs.json`: which runs belong to it, and in which part. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llama.records import Record

SWEEP_INDEX = "runs.json"


class SweepRun(Record):
    """One run's part in a sweep. None of it decides the run's numbers."""

    key: str
    name: str
    """Short and readable, unique in the sweep: `w32-C3.2e11-s0`; a trunk's is `w32-trunk-s0`."""
    trunk: str | None
    """Key of the trunk it branches from."""
    is_trunk: bool
    flops_budget: float | None
    """The declared compute budget, by which isoFLOP bowls group."""
    held_out: bool
    """Kept out of fits, to be predicted."""
    n_params: int | None = None
    """All parameters; None in an index from before it was noted, as the next two."""
    tokens: int | None = None
    """Planned; None for a trunk, which goes as far as its last branch forks."""
    fork_tokens: int | None = None
    """Where a branch leaves its trunk."""
    censored: bool = False
    """Stopped early by a tuning study, for good: it counts as ended, and is no point of any fit."""
    tags: dict[str, str] = Field(default={})
    """More tags for MLflow: its size and budget as its name has them, or a tuning study's trial."""

    @property
    def kind(self) -> Literal["trunk", "branch", "run"]:
        if self.is_trunk:
            return "trunk"
        return "run" if self.trunk is None else "branch"


class SweepIndex(Record):
    """`runs.json`: the sweep's name, the digest of its spec, and its runs."""

    sweep: str
    sweep_id: str
    corpus_folder: str
    """Relative to the storage root."""
    spec_folder: str
    """Where the sweep's YAML was read, and where its relative paths start."""
    runs: list[SweepRun]

    def branches_by_trunk(self) -> dict[str, list[SweepRun]]:
        """Of each trunk, by its key, the runs that fork from it."""
        branches: dict[str, list[SweepRun]] = {}
        for run in self.runs:
            if run.trunk is not None:
                branches.setdefault(run.trunk, []).append(run)
        return branches
