"""Choosing runs by conditions on a source's own columns: `dataset=rpj`, `tokens_per_param<=100`, `params.optimizer!=sgd`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llama.errors import UserError

#: What a condition may name although no source needs to hold it.
TOKENS_PER_PARAM = "tokens_per_param"

_CONDITION = re.compile(r"\s*(.+?)\s*(!=|<=|>=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_ORDERS: dict[str, Callable[[NDArray[np.float64], float], NDArray[np.bool_]]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_SHOWN = 8


class Condition(NamedTuple):
    """`name sign value`; `text` is how it was written."""

    text: str
    name: str
    sign: str
    value: str


def parse_condition(text: str) -> Condition:
    """Raises UserError where `text` is no condition, or asks for an order of what is no number."""
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is no condition: write a column, one of = != <= >= < > and a value, as dataset=rpj")
    name, sign, value = match.groups()
    if sign in _ORDERS and _number(value) is None:
        raise UserError(
            f"the condition {text!r} compares with {value!r}, which is not a number; text is met by = and !="
        )
    return Condition(text, name, "=" if sign == "==" else sign, value)


def rows_that_meet(
    conditions: Iterable[str],
    n_rows: int,
    *,
    column: Callable[[str], pd.Series | None],
    names: Callable[[], list[str]],
    source: str,
) -> NDArray[np.bool_]:
    """Which rows meet every condition. Both sides are compared as numbers where both are, else as text.

    A row without a value meets `!=` alone.

    Args:
        column: the source's column of that name, or None.
        names: the columns that there are, for a message.

    Raises:
        UserError: a column is misnamed, or no row is left.
    """
    met = np.ones(n_rows, dtype=bool)
    for condition in map(parse_condition, conditions):
        values = column(condition.name)
        if values is None:
            raise UserError(_misnamed(condition, names(), source))
        text = values.astype("str").fillna("").str.strip()
        before, met = met, met & _meets(text, condition)
        if not met.any():
            raise UserError(f"no run of {source} meets {condition.text!r}: {_what_there_is(condition, text[before])}")
    return met


def _meets(text: pd.Series, condition: Condition) -> NDArray[np.bool_]:
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    wanted = _number(condition.value)
    if condition.sign in _ORDERS:
        assert wanted is not None
        return _ORDERS[condition.sign](numbers, wanted)
    equal = (text == condition.value).to_numpy(dtype=bool)
    if wanted is not None:
        equal = equal | (numbers == wanted)
    if condition.value.lower() in ("true", "false"):
        equal = equal | (text.str.lower() == condition.value.lower()).to_numpy(dtype=bool)
    return ~equal if condition.sign == "!=" else equal


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return None if np.isnan(number) else number


def _what_there_is(condition: Condition, text: pd.Series) -> str:
    values = text[~text.str.lower().isin(["", "nan", "<na>"])]
    if values.empty:
        return f"{condition.name} is empty in all of them"
    numbers = pd.to_numeric(values, errors="coerce")
    if condition.sign in _ORDERS and numbers.notna().any():
        return f"{condition.name} is between {numbers.min():.6g} and {numbers.max():.6g}"
    there = list(values.value_counts().index)
    near = difflib.get_close_matches(condition.value, there, n=1)
    there = list(dict.fromkeys([*near, *there]))
    return f"{condition.name} is {' or '.join(map(repr, there[:_SHOWN]))}{' ...' if len(there) > _SHOWN else ''}"


def _misnamed(condition: Condition, names: list[str], source: str) -> str:
    near = nearest(condition.name, names)
    hint = f"the nearest is {near!r}" if near else f"it has {', '.join(names[: 2 * _SHOWN])}"
    return f"the condition {condition.text!r} names {condition.name!r}, which {source} has not; {hint}"


def nearest(wanted: str, names: Iterable[str], also: tuple[str, ...] = ()) -> str | None:
    """The one of `names` that was most likely meant by `wanted`, which people also call `also`, likeliest first.

    A name that holds the wanted one beats one that is only spelled alike: loss_val, not flops, for loss.
    """
    by_key = {_key(name): name for name in reversed(list(names))}
    keys = [_key(each) for each in (wanted, *also)]
    exact = [key for key in keys if key in by_key]
    holding = [each for key in keys if len(key) > 2 for each in sorted(by_key, key=len) if key in each]
    held = [each for each in by_key if len(each) > 3 and each in keys[0]]
    alike = difflib.get_close_matches(keys[0], list(by_key), n=1, cutoff=0.5)
    for found in (exact, holding, held, alike):
        if found:
            return by_key[found[0]]
    return None


def _key(name: str) -> str:
    """What is compared of a name: letters and digits, without the part of an MLflow run that it is in."""
    return re.sub(r"[\W_]+", "", re.sub(r"^(params|metrics|tags)\.", "", name.lower()))
