"""Reading runs: `load_runs` and `load_curves`, from a sweep's folder, a CSV, a Parquet or an MLflow store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis.table import LossCurve, RunTable
from llama.errors import UserError
from llama.records import SWEEP_INDEX

FILES = (".csv", ".parquet")


def load_runs(
    source: str | Path, *, columns: Mapping[str, str] | None = None, experiment: str | None = None
) -> RunTable:
    """The runs of `source` as one tidy table. Runs that can't be used stay in it, each with a written reason.

    Args:
        source: a sweep's folder (`<storage>/sweeps/<name>`), a .csv or .parquet with a row a run, or an MLflow tracking URI.
        columns: names in a file or an MLflow store, by RunTable column: `{"n_params": "N"}`, or `{"n_params": "params.size"}`.
        experiment: the MLflow experiment's name; only with a tracking URI.

    Raises:
        UserError: there is no such source, or it lacks a column that every run needs.
    """
    text = str(source)
    if is_tracking_uri(text):
        from analysis.read_mlflow import read_mlflow

        if experiment is None:
            raise UserError(f"{text} is an MLflow store: name the experiment to read as well")
        return read_mlflow(text, experiment, columns or {})
    path = Path(source)
    if path.suffix.lower() in FILES:
        from analysis.read_file import read_file

        return read_file(path, columns or {})
    from analysis.read_sweep import read_sweep

    if columns:
        raise UserError(
            f"{path} is read as a sweep's folder, whose columns have fixed names: leave the column options out"
        )
    return read_sweep(sweep_folder(path))


def load_curves(source: str | Path) -> tuple[LossCurve, ...]:
    """Loss against tokens of every run and trunk of a sweep's folder; empty for sources that hold final losses only."""
    path = Path(source)
    if is_tracking_uri(str(source)) or path.suffix.lower() in FILES:
        return ()
    from analysis.read_sweep import read_curves

    return read_curves(sweep_folder(path))


def is_tracking_uri(text: str) -> bool:
    """Whether this names an MLflow tracking store: `sqlite:///...`, `http://...`, `databricks`."""
    return "://" in text or text == "databricks"


def sweep_folder(path: Path) -> Path:
    """The sweep's folder that `path` names: itself, its `runs.json`, or an output folder that holds exactly one sweep.

    Raises:
        UserError: there is none, or there are several.
    """
    if path.name == SWEEP_INDEX and path.is_file():
        return path.parent
    if (path / SWEEP_INDEX).is_file():
        return path
    if not path.exists():
        raise UserError(f"{path} does not exist: name a sweep's folder, a .csv, a .parquet or an MLflow tracking URI")
    found = sorted(index.parent for index in path.glob(f"sweeps/*/{SWEEP_INDEX}")) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{path} holds {len(found)} sweeps: name one of {', '.join(map(str, found))}")
    raise UserError(
        f"{path} is neither a sweep's folder (it has no {SWEEP_INDEX}), nor a .csv or .parquet, nor an MLflow tracking URI"
    )
