"""What a picture is, before it is drawn: panels of layers over tidy tables.

One description feeds the PNG and SVG (`analysis.plots.canvas`), the interactive chart of the report
(`analysis.plots.interactive`) and the CSV, so all of them show the same points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from analysis.plots import style
from analysis.plots.style import Unit

Marker = Literal["circle", "star", "triangle", "diamond", "cross", "square"]
Dash = Literal["solid", "dashed", "dotted"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a panel."""

    column: str
    """The column of every layer's table that it shows."""
    label: str
    """Name and unit, as printed."""
    unit: Unit
    log: bool = True
    limits: tuple[float, float] | None = None
    """Fixed limits; None holds every plotted point with a margin."""
    ticks: tuple[float, ...] | None = None
    """Fixed ticks; None chooses round ones."""
    texts: tuple[str, ...] | None = None
    """What stands at fixed `ticks` in place of their numbers: rows of a chart."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Points of one look. `table` has both axes' columns, and any others that a reader or a hover text may want."""

    table: pd.DataFrame
    series: str
    """What these points are, in the CSV and in hover texts."""
    colour: str
    legend: str | None = None
    """Text in the legend; layers of one text share one entry, None stays out."""
    framed: bool = True
    """Whether the axes' automatic limits hold these points."""


@dataclass(frozen=True, kw_only=True)
class Line(Layer):
    """A polyline in the table's order."""

    dash: Dash = "solid"
    width: float = 1.6
    """In points."""
    end_label: str | None = None
    """Written at the last point."""
    to_edge: bool = False
    """Whether what lies outside the panel is drawn at its edge, as an unbounded interval is."""


@dataclass(frozen=True, kw_only=True)
class Points(Layer):
    """Markers, with error bars along y where the table has the columns `low` and `high`."""

    marker: Marker = "circle"
    size: float = 6.0
    """Diameter in points."""
    hollow: bool = False
    labels: str | None = None
    """Column of texts written beside the points."""


@dataclass(frozen=True, kw_only=True)
class Band(Layer):
    """The region between the columns `low` and `high` along y."""

    opacity: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Shade:
    """A region that no run covers, from `start` to `end` along one axis; None is the panel's edge."""

    along: Literal["x", "y"]
    start: float | None
    end: float | None
    label: str = "extrapolated"

    def clipped(self, limits: tuple[float, float]) -> tuple[float, float]:
        """(start, end) inside the axis's limits; empty (end <= start) where it lies outside them."""
        start = limits[0] if self.start is None else max(self.start, limits[0])
        end = limits[1] if self.end is None else min(self.end, limits[1])
        return start, end


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    x: Axis
    y: Axis
    layers: list[Layer]
    title: str = ""
    shades: list[Shade] = field(default_factory=list)
    zero_line: bool = False
    """A thin line at y = 0, for residuals."""

    def limits(self, axis: Axis) -> tuple[float, float]:
        """Fixed limits, or those that hold every framed point, intervals included; y looks only at points inside x's."""
        if axis.limits is not None:
            return axis.limits
        columns = [axis.column, "low", "high"] if axis is self.y else [axis.column]
        parts = [np.array([], dtype=float)]
        for layer in self.layers:
            if not layer.framed:
                continue
            table = layer.table
            if axis is self.y and self.x.limits is not None:
                table = table[table[self.x.column].between(*self.x.limits)]
            parts += [table[column].to_numpy(dtype=float) for column in columns if column in table]
        values = np.concatenate(parts)
        values = values[np.isfinite(values) & ((values > 0) if axis.log else True)]
        if values.size == 0:
            return (1.0, 10.0) if axis.log else (0.0, 1.0)
        return style.padded(float(values.min()), float(values.max()), log=axis.log)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of one or more panels side by side."""

    stem: str
    """File name without suffix."""
    title: str
    caption: str
    """What is shown, the counting rule, what is measured and what is fitted."""
    panels: list[Panel]
    legend_title: str = ""

    def points(self) -> pd.DataFrame:
        """Every plotted point, one row each: `panel`, `series`, then the columns that the layers carry (but links)."""
        tables = [
            layer.table.assign(panel=panel.title or self.title, series=layer.series)
            for panel in self.panels
            for layer in panel.layers
        ]
        if not tables:
            return pd.DataFrame({"panel": [], "series": []})
        table = pd.concat(tables, ignore_index=True)
        first = ["panel", "series"]
        return table[first + [column for column in table.columns if column not in (*first, "mlflow_url")]]


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A picture that these runs can't give, and why."""

    stem: str
    title: str
    reason: str
