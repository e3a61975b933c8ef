"""Values as a report writes them: numbers, intervals, lists of facts, and the words for what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from analysis.page.markup import Html, element, escape, join
from analysis.plots.style import Unit, format_number
from analysis.results import Interval, Study

NOTHING = "–"


def section(anchor: str, title: str, *parts: Html) -> Html:
    return element("section", element("h2", title), *parts, id=anchor)


class Missing(Html):
    """The body of a section that these runs can't give: its reason, to be gathered with the others'."""

    __slots__ = ()


def missing(study: Study, part: str) -> Missing:
    return Missing(escape(f"{study.absent.get(part, 'these runs do not give it')}."))


def facts(values: Mapping[str, str]) -> Html:
    """Names and values, as a list of two columns."""
    pairs = (join([element("dt", name), element("dd", value)]) for name, value in values.items())
    return element("dl", *pairs, class_="facts")


def number(value: float) -> str:
    return format_number(value, "plain", digits=5)


def cell(value: float | None, unit: Unit, *, digits: int = 3) -> str:
    return NOTHING if value is None or pd.isna(value) else format_number(float(value), unit, digits=digits)


def percent(value: float) -> str:
    return format_number(value, "percent", digits=2)


def span(interval: Interval | None, unit: Unit, *, digits: int = 3) -> str:
    """Both ends; a dash where there is no interval."""
    if interval is None:
        return NOTHING
    hi = "∞" if math.isinf(interval.hi) else format_number(interval.hi, unit, digits=digits)
    return f"{format_number(interval.lo, unit, digits=digits)} to {hi}"


def interval(ci95: Mapping[str, Interval] | None, name: str, unit: Unit = "plain", *, digits: int = 3) -> str:
    return span(None if ci95 is None else ci95.get(name), unit, digits=digits)


def cost_unit(unit: str) -> Unit:
    return "power" if unit == "FLOPs" else "count"


def demand_words(demand: float | None) -> str:
    """A break-even demand: 0 and None have words of their own."""
    if demand is None:
        return "never"
    return "cheaper from the start" if demand == 0 else format_number(demand, "count")
