"""Reading runs: `load_runs` and `load_curves`, from a sweep's folder, a CSV, a Parquet or an MLflow store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from analysis.runs.mlflow_uri import masked
from analysis.runs.table import LossCurve, RunTable
from llama.errors import UserError
from llama.sweep_index import SWEEP_INDEX

#: Names of tables end in one of these; the delimiter of the first four is whatever their header says.
FILES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
READ = "a .csv or .tsv (also gzipped) or .parquet with a row a run"


def load_runs(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    experiment: str | None = None,
    where: Iterable[str] = (),
    keep: Iterable[str] = (),
) -> RunTable:
    """The runs of `source` as one tidy table. Runs that can't be used stay in it, each with a written reason.

    Args:
        source: a sweep's folder (`<storage>/sweeps/<name>`), a .csv or .tsv (also gzipped) or .parquet with a row a run, or an
            MLflow tracking URI.
        columns: names in a file or an MLflow store, by RunTable column: `{"n_params": "N"}`, or `{"n_params": "params.size"}`.
        experiment: the MLflow experiment's name; only with a tracking URI.
        where: conditions that all runs of the table meet: `dataset=rpj`, `tokens_per_param<=100`, `params.optimizer!=sgd`.
            They name columns of the source, as it calls them, or of the table; numbers are compared as numbers.
        keep: what stays in use in spite of its exclusion, by `RunTable.keep`: ids, names or rows of runs, or kinds of
            exclusion such as `diverged`.

    Raises:
        UserError: there is no such source, it lacks a column that every run needs, no run meets `where`, or something to be
            kept is not there or has no N, D or loss.
    """
    conditions = list(where)
    table = _read(source, columns or {}, experiment, conditions)
    if conditions:
        table = replace(table, source=f"{table.source} where {' and '.join(map(str.strip, conditions))}")
    return table.keep(keep)


def _read(source: str | Path, columns: Mapping[str, str], experiment: str | None, where: list[str]) -> RunTable:
    text = str(source)
    if is_tracking_uri(text):
        from analysis.runs.read_mlflow import read_mlflow

        return read_mlflow(text, _required(text, experiment), columns, where)
    path = Path(source)
    if is_file(path):
        from analysis.runs.read_file import read_file

        _require_table(path)
        return read_file(path, columns, where)
    from analysis.runs.read_sweep import read_sweep

    if columns:
        raise UserError(
            f"{path} is read as a sweep's folder, whose columns have fixed names: leave the column options out"
        )
    return read_sweep(sweep_folder(path), where)


def load_curves(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    experiment: str | None = None,
    runs: RunTable | None = None,
) -> tuple[LossCurve, ...]:
    """Loss against tokens of every run and trunk of a sweep's folder or an MLflow experiment; empty for a file.

    Args:
        source, columns, experiment: as for `load_runs`. For an experiment, `columns` may also say where `train_loss` (a
            metric) and `batch_tokens` (tokens a step) are; see `analysis.runs.read_mlflow_curves` for what is tokens there.
        runs: leave out the curves of other runs than these and the trunks that they leave.
    """
    text, path = str(source), Path(source)
    if is_tracking_uri(text):
        from analysis.runs.read_mlflow_curves import read_mlflow_curves

        curves = read_mlflow_curves(text, _required(text, experiment), columns or {})
    elif is_file(path):
        _require_table(path)
        curves = ()
    else:
        from analysis.runs.read_sweep import read_curves

        curves = read_curves(sweep_folder(path))
    if runs is None:
        return curves
    chosen = set(runs.frame["run_id"])
    chosen |= {curve.trunk for curve in curves if curve.run_id in chosen and curve.trunk is not None}
    return tuple(curve for curve in curves if curve.run_id in chosen)


def _required(uri: str, experiment: str | None) -> str:
    if experiment is None:
        raise UserError(f"{masked(uri)} is an MLflow store: name the experiment to read as well (--experiment)")
    return experiment


def is_file(path: Path) -> bool:
    """Whether this names a file, there or not, rather than a sweep: by how it ends, or because a file of that name is there."""
    if path.name.lower().endswith(FILES):
        return True
    return path.name != SWEEP_INDEX and path.exists() and not path.is_dir()


def _require_table(path: Path) -> None:
    """Refuse a file of a kind that is no table."""
    if not path.name.lower().endswith(FILES):
        raise UserError(
            f"{path} is neither a sweep's folder, nor {READ}: what a file holds is told by how its name ends. Save the table "
            "as CSV"
        )


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
        raise UserError(f"{path} does not exist: name a sweep's folder, {READ}, or an MLflow tracking URI")
    found = sorted(index.parent for index in path.glob(f"sweeps/*/{SWEEP_INDEX}")) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{path} holds {len(found)} sweeps: name one of {', '.join(map(str, found))}")
    raise UserError(
        f"{path} is no sweep's folder: it has no {SWEEP_INDEX}. Runs are read from a sweep's folder, from {READ}, or from an "
        "MLflow tracking URI"
    )
