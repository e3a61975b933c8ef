"""Which runs a command reads: RUNS itself, and how its columns are named, filtered and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llama.errors import UserError

if TYPE_CHECKING:
    from analysis.runs.table import LossCurve, RunTable
    from sweeps.storage import Storage


@dataclass(frozen=True, kw_only=True)
class RunsQuery:
    """How runs are read. The defaults read a sweep, or a table with isoloss's own column names, whole."""

    columns: dict[str, str] = field(default_factory=dict)
    """RunTable column -> name in a file, or `params.x`, `metrics.x`, `tags.x` in MLflow."""
    experiment: str | None = None
    """Of an MLflow store."""
    where: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def load(self, source: str | Path) -> RunTable:
        """The runs of what `runs_source` returned."""
        from analysis import load_runs

        return load_runs(
            source, columns=self.columns or None, experiment=self.experiment, where=self.where, keep=self.keep
        )

    def load_curves(self, source: str | Path, runs: RunTable) -> tuple[LossCurve, ...]:
        """Loss against tokens along each of the runs, where the source knows it."""
        from analysis import load_curves

        return load_curves(source, columns=self.columns or None, experiment=self.experiment, runs=runs)


def columns_of(mapping: Sequence[str], **named: str | None) -> dict[str, str]:
    """The mapping of `COLUMN=NAME` entries, and of columns that have an option of their own.

    Raises:
        UserError: an entry that is none, or two names for one column.
    """
    columns = dict(_split(entry) for entry in mapping)
    for name, given in named.items():
        if given is None:
            continue
        if columns.get(name, given) != given:
            raise UserError(f"{name} is mapped to {columns[name]!r} by --map and to {given!r} by its own option")
        columns[name] = given
    return columns


def open_runs(runs: str, storage: str | Path | None, query: RunsQuery) -> RunTable:
    """RUNS as a table."""
    from sweeps.storage import open_storage

    return query.load(runs_source(runs, open_storage(storage)))


def runs_source(runs: str, storage: Storage) -> str | Path:
    """What `analysis.load_runs` takes for RUNS.

    Raises:
        UserError: RUNS is neither a table nor a launched sweep.
    """
    from sweeps.storage import open_sweep

    return runs if is_table(runs) else open_sweep(runs, storage).folder


def is_table(runs: str) -> bool:
    """Whether RUNS is a file with a row a run or an MLflow store, rather than a sweep."""
    from analysis.runs.load import is_file, is_tracking_uri
    from sweeps.storage import YAML_SUFFIXES

    return is_tracking_uri(runs) or (is_file(Path(runs)) and Path(runs).suffix not in YAML_SUFFIXES)


def _split(entry: str) -> tuple[str, str]:
    name, sign, source = entry.partition("=")
    if not (sign and name.strip() and source.strip()):
        raise UserError(f"--map {entry!r} is not COLUMN=NAME, such as --map loss=val_loss")
    return name.strip(), source.strip()
