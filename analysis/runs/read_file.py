"""Runs from anybody's CSV or Parquet: a row a run, read strictly, each unusable row excluded with its reason."""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.runs.conditions import TOKENS_PER_PARAM, nearest, rows_that_meet
from analysis.runs.table import COLUMNS, REQUIRED, RunTable
from analysis.runs.tidy import tidy
from llama.errors import UserError

#: Options of the command that rename a column, for messages.
OPTIONS = {"n_params": "--n-column", "n_tokens": "--d-column", "loss": "--loss-column"}
#: What people call the columns that every run needs, likeliest first.
ALSO = {
    "n_params": ("N", "params", "parameters", "n_parameters", "model_size", "size"),
    "n_tokens": ("D", "tokens", "train_tokens", "training_tokens", "dataset_size"),
    "loss": ("val_loss", "loss_val", "validation_loss", "eval_loss", "final_loss", "L"),
}
#: Columns that are this table's own bookkeeping and are never read from a file.
OWN = ("row",)

_GZIP = b"\x1f\x8b"
#: How pandas says that a line is longer than the header.
_RAGGED = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_file(path: Path, columns: Mapping[str, str], where: Iterable[str] = ()) -> RunTable:
    """Read `path`; `columns` gives the file's name of a RunTable column where it differs. Unknown columns are ignored.

    A condition of `where` names a column of the file, else of the RunTable, else `tokens_per_param`.

    Raises:
        UserError: the file can't be read, has no rows, lacks n_params, n_tokens or loss, or no row meets the conditions.
    """
    require_known(columns)
    raw = _read(path)
    rows = np.arange(1, len(raw) + 1)
    there = [str(column) for column in raw.columns]
    names = {name: columns.get(name, name) for name in COLUMNS if name not in OWN}
    for name in {**dict.fromkeys(REQUIRED), **dict.fromkeys(columns)}:
        if names[name] not in there:
            raise UserError(_missing(path, name, names[name], there))
    present = {name: column for name, column in names.items() if column in there}

    def column(name: str) -> pd.Series | None:
        if name in there:
            return raw[name]
        if name in present:
            return raw[present[name]]
        if name == TOKENS_PER_PARAM:
            return tokens_per_param(raw[names["n_params"]], raw[names["n_tokens"]])
        return None

    met = rows_that_meet(where, len(raw), column=column, names=lambda: there, source=path.name)
    raw, rows = raw[met], rows[met]
    text = {name: as_text(raw[column]) for name, column in present.items()}
    text |= {name: as_text(raw[name]) for name in there if name.startswith("bpb/")}
    others = {name: as_text(raw[name]) for name in there if name not in text and name not in present.values()}
    frame, said = tidy(text, rows, others=others)
    return RunTable(source=path.name, frame=frame, warnings=said)


def require_known(columns: Mapping[str, str], also: Iterable[str] = ()) -> None:
    """Refuse a mapping of a column that the runs table has not."""
    known = [*(name for name in COLUMNS if name not in OWN), *also]
    for name in columns:
        if name not in known:
            near = nearest(name, known)
            hint = f"the nearest is {near!r}" if near else f"it has {', '.join(known)}"
            raise UserError(f"{name!r} is no column of the runs table; {hint}")


def as_text(values: pd.Series) -> pd.Series:
    """Text without spaces around it; an absent value is the empty text."""
    return values.astype("str").fillna("").str.strip()


def tokens_per_param(n_params: pd.Series, n_tokens: pd.Series) -> pd.Series:
    """D/N, NaN where one of them is no number."""
    n, d = (pd.to_numeric(as_text(values), errors="coerce") for values in (n_params, n_tokens))
    return d / n


def _read(path: Path) -> pd.DataFrame:
    kind = "parquet" if path.suffix.lower() == ".parquet" else "csv"
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder, not a .{kind} file")
        frame = pd.read_parquet(path) if kind == "parquet" else _read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except ImportError:
        raise UserError(
            f"{path} can't be read: Parquet needs pyarrow, which is not installed. pip install pyarrow, or save the table as "
            "CSV"
        ) from None
    except (
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        csv.Error,
        OSError,
        EOFError,
        zlib.error,
        ValueError,
    ) as error:
        raise UserError(f"{path} can't be read as {kind}: {_in_words(error)}") from None
    frame.columns = frame.columns.map(lambda name: str(name).strip())
    if not len(frame):
        raise UserError(f"{path} has no rows" + (", only a header" if len(frame.columns) else ""))
    if frame.columns.has_duplicates:
        raise UserError(f"{path} has the column {frame.columns[frame.columns.duplicated()][0]!r} twice")
    return frame


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split())
    if match := _RAGGED.search(text):
        return f"line {match[2]} has {match[3]} cells, and the header names {match[1]}"
    if isinstance(error, pd.errors.ParserWarning):
        return "its rows have more cells than the header has names"
    return text


def _read_csv(path: Path) -> pd.DataFrame:
    """Every cell as text, so that nothing is guessed.

    Gzip is known by its first bytes, the delimiter (a comma, a semicolon or a tab) as the one that splits the header most.
    """
    data = path.read_bytes()
    if data.startswith(_GZIP):
        data = gzip.decompress(data)
    if data.startswith(_BYTE_ORDER_MARKS):
        raise ValueError("it is UTF-16; save it as CSV in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not text in UTF-8 (byte {error.start} is {data[error.start]:#04x})") from None
    if "\0" in text:
        raise ValueError("it is not text: it holds zero bytes")
    if not text.strip():
        raise ValueError("it is empty")
    text = text.lstrip("\r\n")
    delimiter = max(",;\t", key=text.splitlines()[0].count)
    # pandas would rename a name's second column.
    header = pd.Series([name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=delimiter))])
    if header.duplicated().any():
        raise ValueError(f"it has the column {header[header.duplicated()].iloc[0]!r} twice")
    with warnings.catch_warnings():
        # Rows longer than the header would lose their last cells, or shift all names by one, with no more than a warning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, index_col=False, sep=delimiter)
    # Spreadsheets end in lines of bare commas.
    return frame[(frame.fillna("") != "").any(axis=1)]


def _missing(path: Path, name: str, wanted: str, there: list[str]) -> str:
    near = nearest(wanted, there, ALSO.get(name, ()) if wanted == name else ())
    option = OPTIONS.get(name, f"--map {name}=NAME")
    hint = f"the nearest is {near!r}" if near else f"it has {', '.join(there[:12])}"
    return f"{path} has no column {wanted!r}; {hint}. Name the right one with {option}"
