"""What each source of uncertainty does to the decision's N: a row a variant, the joint interval below."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analysis.plots import parts, style
from analysis.plots.picture import Absent, Axis, Layer, Line, Panel, Picture, Points
from analysis.results import Choice, Interval, Study, Uncertainty

FACTOR_WORDS = {
    "sampling": "sampling of runs",
    "seed": "seed noise",
    "objective": "objective",
    "outliers": "outliers",
    "law": "law",
    "counting": "counting",
}
_DECISION_WORDS = {"training_optimal": "cheapest to train", "lifetime_optimal": "cheapest to own"}
_JOINED, _REJECTED, _JOINT = "in the joint interval", "left out of it", "joint interval"


@dataclass(frozen=True, kw_only=True)
class _Row:
    label: str
    kind: str
    n_params: float | None
    interval: Interval | None
    used: bool
    reason: str


def uncertainty(study: Study) -> Picture | Absent:
    """N of the recommendation under every choice that an analyst makes, each with its own 95 % interval."""
    stem, title = "uncertainty", "What the decision hangs on"
    whole = study.recommendation.uncertainty if study.recommendation is not None else None
    if whole is None:
        reason = study.absent.get("recommendation", "no recommendation with its whole uncertainty")
        return Absent(stem=stem, title=title, reason=reason)
    rows = _rows(whole)
    if not any(row.n_params is not None or row.interval is not None for row in rows):
        return Absent(stem=stem, title=title, reason="no choice gives an answer to this question")
    layers: list[Layer] = []
    for kind, colour in ((_JOINED, style.SECOND), (_REJECTED, style.GREY), (_JOINT, style.ACCENT)):
        layers += _layers([(at, row) for at, row in enumerate(reversed(rows)) if row.kind == kind], kind, colour)
    places = tuple(float(k) for k in range(len(rows)))
    texts = tuple(row.label for row in reversed(rows))
    caption = (
        f"The model that is {_DECISION_WORDS[whole.decision]}, each row with one choice changed and all else as in the study's "
        f"fit (filled squares: the fit's own choices). Bars: 95 % over its own bootstrap draws ({whole.draws} of a refit). "
        "Grey: rejected by the data, or not to be compared, and so left out of the joint interval, which lays what the others "
        f"move N by over every draw. {parts.COUNTING_WORDS[whole.counting]}."
    )
    return Picture(
        stem=stem,
        title=title,
        caption=caption,
        panels=[
            Panel(
                x=Axis(column="n_params", label="parameters N", unit="count", limits=_limits(rows)),
                y=Axis(
                    column="row",
                    label="",
                    unit="plain",
                    log=False,
                    limits=(-0.6, len(rows) - 0.4),
                    ticks=places,
                    texts=texts,
                ),
                layers=layers,
            )
        ],
    )


def _rows(whole: Uncertainty) -> list[_Row]:
    rows: list[_Row] = []
    for part in whole.contributions:
        choices = [choice for choice in whole.choices if choice.factor == part.factor]
        if not choices:
            if part.n_params is not None:
                middle = next((choice.n_params for choice in whole.choices if choice.used), None)
                rows.append(
                    _Row(
                        label=FACTOR_WORDS[part.factor],
                        kind=_JOINED,
                        n_params=middle,
                        interval=part.n_params,
                        used=True,
                        reason=part.reason,
                    )
                )
            continue
        rows += [_choice_row(choice) for choice in choices]
    joint = whole.joint.get("n_params") if whole.joint else None
    if joint is not None:
        rows.append(_Row(label="all together", kind=_JOINT, n_params=None, interval=joint, used=False, reason=""))
    return rows


def _choice_row(choice: Choice) -> _Row:
    return _Row(
        label=f"{FACTOR_WORDS[choice.factor]}: {choice.choice}{'' if choice.n_params else ' (no answer)'}",
        kind=_JOINED if choice.joined else _REJECTED,
        n_params=choice.n_params,
        interval=choice.ci95.get("n_params") if choice.ci95 else None,
        used=choice.used,
        reason=choice.reason or "",
    )


def _layers(rows: list[tuple[int, _Row]], kind: str, colour: str) -> list[Layer]:
    layers: list[Layer] = []
    for at, row in rows:
        if row.interval is not None and math.isfinite(row.interval.lo):
            table = pd.DataFrame(
                {
                    "n_params": [row.interval.lo, row.interval.hi],
                    "row": float(at),
                    "label": row.label,
                    "flag": row.reason,
                }
            )
            layers.append(
                Line(
                    table=table,
                    series=f"{row.label}, 95 %",
                    colour=colour,
                    width=4.0 if kind == _JOINT else 1.8,
                    legend=kind,
                    to_edge=True,
                )
            )
    for used in (True, False):
        found = [(at, row) for at, row in rows if row.n_params is not None and row.used == used]
        if not found:
            continue
        table = pd.DataFrame(
            {
                "n_params": [row.n_params for _, row in found],
                "row": [float(at) for at, _ in found],
                "run": [row.label for _, row in found],
                "flag": [row.reason for _, row in found],
            }
        )
        layers.append(
            Points(
                table=table,
                series="the fit's own choice" if used else "another choice",
                colour=colour,
                marker="square" if used else "circle",
                hollow=not used,
                size=5.5,
            )
        )
    return layers


def _limits(rows: list[_Row]) -> tuple[float, float]:
    """Of what is joined, and of rejected choices as far as a factor beyond it."""
    ends = [value for row in rows for value in _known(row)]
    joined = [value for row in rows if row.kind != _REJECTED for value in _known(row)] or ends
    low, high = min(joined), max(joined)
    return style.padded(max(min(ends), low / 4), min(max(ends), high * 4), log=True)


def _known(row: _Row) -> list[float]:
    bounds = [row.interval.lo, row.interval.hi] if row.interval else []
    return [value for value in (row.n_params, *bounds) if value is not None and math.isfinite(value) and value > 0]
