"""Runs from anybody's CSV or Parquet: a row a run, read strictly, each unusable row excluded with its reason."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.table import COLUMNS, UNSAID, RunTable, make_frame
from llama.errors import UserError

MAY_BE_0 = ("seed", "gpu_share")
REQUIRED = ("n_params", "n_tokens", "loss")
#: Options of the command that rename a column, for messages.
OPTIONS = {"n_params": "--n-column", "n_tokens": "--d-column", "loss": "--loss-column"}
#: Columns that are this table's own bookkeeping and are never read from a file.
OWN = ("row",)
TRUE, FALSE = ("true", "1", "yes", "1.0"), ("false", "0", "no", "0.0", "")


def read_file(path: Path, columns: Mapping[str, str]) -> RunTable:
    """Read `path`; `columns` gives the file's name of a RunTable column where it differs. Unknown columns are ignored.

    Raises:
        UserError: the file can't be read, has no rows, or lacks n_params, n_tokens or loss.
    """
    raw = _read(path)
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown:
        raise UserError(f"{unknown[0]!r} is no column of the runs table; it has {', '.join(COLUMNS)}")
    names = {name: columns.get(name, name) for name in COLUMNS if name not in OWN}
    for name in {**dict.fromkeys(REQUIRED), **dict.fromkeys(columns)}:
        if names[name] not in raw.columns:
            raise UserError(_missing(path, name, names[name], [str(column) for column in raw.columns]))
    present = {name: raw[column].astype(str).str.strip() for name, column in names.items() if column in raw.columns}
    present |= {
        str(column): raw[column].astype(str).str.strip() for column in raw.columns if str(column).startswith("bpb/")
    }
    return RunTable(source=path.name, frame=tidy(present, len(raw)))


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
            # Text from here on, so that both formats meet the same checks; an absent value is the empty text.
            frame = frame.astype(object).where(frame.notna(), "")
        else:
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as {path.suffix[1:].lower()}: {error}") from None
    if not len(frame):
        raise UserError(f"{path} has no rows")
    duplicated = frame.columns[frame.columns.duplicated()]
    if len(duplicated):
        raise UserError(f"{path} has the column {duplicated[0]!r} twice")
    return frame


def _missing(path: Path, name: str, wanted: str, there: list[str]) -> str:
    lowered = {column.strip().lower(): column for column in there}
    # A column that holds the name beats one that is only spelled alike: loss_val, not flops, for loss.
    near = [name for name in lowered if wanted.lower() in name][:1]
    near = near or difflib.get_close_matches(wanted.lower(), list(lowered), n=1, cutoff=0.4)
    option = OPTIONS.get(name, f"columns={{{name!r}: ...}}")
    hint = f"the nearest is {lowered[near[0]]!r}" if near else f"it has {', '.join(there[:12])}"
    return f"{path} has no column {wanted!r}; {hint}. Name the right one with {option}"


def tidy(text: Mapping[str, pd.Series], n_rows: int) -> pd.DataFrame:
    """A RunTable frame of text columns; the first thing wrong with a row is its reason."""
    reason = np.full(n_rows, "", dtype=object)
    if "excluded" in text:
        reason[:] = text["excluded"].to_numpy(dtype=object)

    def blame(bad: np.ndarray, words: list[str] | str) -> None:
        bad = bad & (reason == "")
        reason[bad] = words if isinstance(words, str) else np.array(words, dtype=object)[bad]

    data: dict[str, object] = {"row": range(1, n_rows + 1)}
    for name, values in text.items():
        dtype = COLUMNS.get(name, "float64")
        if name == "excluded":
            continue
        if dtype == "str":
            data[name] = values.tolist()
        elif dtype == "bool":
            lowered = values.str.lower()
            data[name] = lowered.isin(TRUE).tolist()
            blame(
                ~lowered.isin((*TRUE, *FALSE)).to_numpy(),
                [f"{name} is {value!r}, not true or false" for value in values],
            )
        else:
            number = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
            given = (values != "").to_numpy() & (values.str.lower() != "nan").to_numpy()
            if name in REQUIRED:
                blame(~given, f"{name} is missing")
            blame(given & np.isnan(number), [f"{name} is {value!r}, which is not a number" for value in values])
            blame(np.isinf(number), f"{name} is infinite")
            if name != "seed":
                blame(number < 0, [f"{name} is {value}, which is negative" for value in values])
            if name not in MAY_BE_0:
                blame(number == 0, f"{name} is 0")
            if dtype == "Int64":
                data[name] = [pd.NA if np.isnan(value) or value % 1 else int(value) for value in number]
            else:
                data[name] = np.where(np.isfinite(number), number, UNSAID.get(name, np.nan)).tolist()
    if "status" in text:
        ended = text["status"].isin(["", "finished", "FINISHED"]).to_numpy()
        blame(~ended, [f"status is {value!r}" for value in text["status"]])
    ids = text.get("run_id", pd.Series([""] * n_rows)).to_numpy(dtype=object)
    ids = np.where(ids == "", [f"row-{row}" for row in range(1, n_rows + 1)], ids)
    first = {run_id: row for row, run_id in reversed(list(enumerate(ids, start=1)))}
    repeated = np.array([first[run_id] != row for row, run_id in enumerate(ids, start=1)])
    blame(repeated, [f"the same run id as row {first[run_id]}" for run_id in ids])
    data["run_id"] = ids.tolist()
    data["excluded"] = reason.tolist()
    names = text.get("name", pd.Series([""] * n_rows))
    data["name"] = [name or run_id for name, run_id in zip(names, ids, strict=True)]
    keys = list(data)
    columns = [list(values) for values in data.values()]  # type: ignore[call-overload]
    return make_frame([dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)])
