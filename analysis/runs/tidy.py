"""From a source's columns of text to the runs table: numbers checked, units converted, the first thing wrong a row's reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs.seed_cells import seed_cells
from analysis.runs.suspicions import suspicions
from analysis.runs.table import COLUMNS, REQUIRED, WHOLE_SCHEDULE, frame_of

MAY_BE_0 = ("seed", "gpu_share", "task_error", "task_accuracy")
TRUE, FALSE = ("true", "1", "yes", "1.0"), ("false", "0", "no", "0.0", "")
#: Nats in one of each unit that a loss may be stated in.
NATS = {"nats": 1.0, "nat": 1.0, "bits": float(np.log(2)), "bit": float(np.log(2))}
#: Kinds of exclusion by a source's word for how a run ended; another word is an unfinished run's.
ENDED = ("", "finished")
KIND_OF_STATUS = {"diverged": "diverged", "failed": "failed", "crashed": "failed", "absent": "unstarted"}

_WITH_UNIT = re.compile(r"([\d.]+)\s*([kmbgt])\w*", re.IGNORECASE)
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_GROUPED = re.compile(r"\d{1,3}(?:([ ,_'])\d{3})(?:\1\d{3})*(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"\d+,\d+")


def tidy(
    text: Mapping[str, pd.Series],
    rows: NDArray[np.int64] | None = None,
    *,
    others: Mapping[str, pd.Series] | None = None,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A RunTable frame of text columns, and what to warn of.

    Args:
        text: by RunTable column, or `bpb/<domain>`; "" where a run has no value.
        rows: numbers of the rows in a file; None where the source has none.
        others: what the source says beside; it may tell runs apart that are equal in all else but their seed.
    """
    columns = {name: values.reset_index(drop=True) for name, values in text.items()}
    n_rows = len(next(iter(columns.values())))
    reason = _Reasons(columns.get("excluded"), n_rows)
    data: dict[str, Any] = {}
    if rows is not None:
        data["row"] = pd.array(rows, dtype="Int64")
    if "status" in columns:
        lowered = columns["status"].str.lower()
        reason.blame(~lowered.isin(ENDED), columns["status"], _about_status)
    for name, values in columns.items():
        dtype = COLUMNS.get(name, "float64")
        if name == "excluded":
            continue
        if dtype == "str":
            data[name] = values
        elif dtype == "bool":
            lowered = values.str.lower()
            data[name] = lowered.isin(TRUE)
            reason.blame(~lowered.isin([*TRUE, *FALSE]), values, _about(name, "is {!r}, not true or false"))
        else:
            data[name] = _numbers(name, values, reason)
    said = _to_nats(data, reason) if "loss" in data else []
    if "planned_tokens" in data and "n_tokens" in data:
        short = pd.Series(data["n_tokens"] < WHOLE_SCHEDULE * data["planned_tokens"])
        reason.blame(short, columns["planned_tokens"] + "/" + columns["n_tokens"], _about_schedule)
    _name_runs(data, columns, rows, reason)
    data["excluded"] = reason.words
    frame = frame_of(data, n_rows)
    others = {name: values.reset_index(drop=True) for name, values in (others or {}).items()}
    frame["design"] = frame["design"].where(frame["design"] != "", seed_cells(frame, others))
    return frame, (*said, *suspicions(frame))


class _Reasons:
    """The first thing that was found wrong with each row."""

    def __init__(self, given: pd.Series | None, n_rows: int) -> None:
        self.words: NDArray[np.object_] = np.full(n_rows, "", dtype=object)
        if given is not None:
            self.words[:] = given.to_numpy(dtype=object)

    def blame(self, bad: pd.Series, values: pd.Series, words: Callable[[str], str]) -> None:
        """`words` makes a reason of a row's value."""
        where = np.flatnonzero(bad.to_numpy(dtype=bool) & (self.words == ""))
        if len(where):
            self.words[where] = [words(str(value)) for value in values.iloc[where]]


def _about(name: str, words: str, kind: str = "invalid") -> Callable[[str], str]:
    return lambda value: f"{kind}: {name} {words.format(value)}"


def _about_status(value: str) -> str:
    kind = KIND_OF_STATUS.get(value.lower(), "unfinished")
    return kind if value.lower() == kind else f"{kind}: status is {value!r}"


def _about_schedule(values: str) -> str:
    planned, trained = values.split("/")
    return f"mid-schedule: stopped at {trained} of {planned} planned tokens, before its learning rate had decayed"


def _numbers(name: str, values: pd.Series, reason: _Reasons) -> Any:
    number = pd.Series(pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64))
    given = ~values.str.lower().isin(["", "nan", "<na>", "none", "null"])
    if name in REQUIRED:
        reason.blame(~given, values, _about(name, "is missing", "missing"))
    reason.blame(given & number.isna(), values, lambda value: f"invalid: {name} is {value!r}, {_plain(value)}")
    reason.blame(number.abs() == np.inf, values, _about(name, "is infinite"))
    if name != "seed":
        reason.blame(number < 0, values, _about(name, "is {}, which is negative"))
    if name not in MAY_BE_0:
        reason.blame(number == 0, values, _about(name, "is 0"))
    number = number.where(number.abs() < np.inf)
    if COLUMNS.get(name) == "Int64":
        return number.where(number % 1 == 0).astype("Int64")
    return number.to_numpy()


def _plain(value: str) -> str:
    """Why `value` is refused as a number, with the plain number that it seems to mean."""
    if match := _WITH_UNIT.fullmatch(value):
        try:
            meant = f"{float(match[1]) * _UNITS[match[2].lower()]:g}".replace("e+", "e").replace("e0", "e")
            return f"which is not a plain number: write {meant}"
        except ValueError:
            pass
    if match := _GROUPED.fullmatch(value):
        return f"which is not a plain number: write {value.replace(match[1], '')}, or a point for a decimal comma"
    if _DECIMAL_COMMA.fullmatch(value):
        return f"which is not a plain number: write {value.replace(',', '.')}"
    return "which is not a number"


def _to_nats(data: dict[str, Any], reason: _Reasons) -> list[str]:
    """Convert losses in bits, blame other units, and say so."""
    if "loss_unit" not in data:
        return []
    unit = data["loss_unit"].str.lower()
    stated = unit != ""
    reason.blame(
        stated & ~unit.isin(NATS), data["loss_unit"], _about("loss_unit", "is {!r}, neither nats nor bits", "unit")
    )
    said = []
    if bits := int(unit.isin(["bits", "bit"]).sum()):
        said.append(f"the losses of {bits} runs are in bits a token; they are read as nats, times ln 2")
    if stated.any() and not stated.all():
        said.append(
            f"{int((~stated).sum())} of {len(unit)} runs state no unit of their loss; they are taken to be in nats"
        )
    data["loss"] = data["loss"] * unit.map(NATS).fillna(1.0).to_numpy(dtype=np.float64)
    data["loss_unit"] = data["loss_unit"].where(~unit.isin(NATS), "nats")
    return said


def _name_runs(
    data: dict[str, Any], columns: Mapping[str, pd.Series], rows: NDArray[np.int64] | None, reason: _Reasons
) -> None:
    """Ids, names, and the second of two usable runs that share an id."""
    n_rows = len(reason.words)
    numbers = pd.Series(np.arange(1, n_rows + 1) if rows is None else rows).astype("str")
    empty = pd.Series([""] * n_rows, dtype="str")
    ids = columns.get("run_id", empty)
    ids = ids.where(ids != "", "row-" + numbers)
    names = columns.get("name", empty)
    data["run_id"], data["name"] = ids, names.where(names != "", ids)
    usable = pd.Series(reason.words == "")
    first = numbers[usable].groupby(ids[usable], sort=False).first()
    repeated = usable & ids.where(usable).duplicated()
    kind = "duplicate: the same run id as "
    reason.blame(
        repeated, ids, lambda run_id: kind + (f"row {first[run_id]}" if rows is not None else f"another run, {run_id}")
    )
