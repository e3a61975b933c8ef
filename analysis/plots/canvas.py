"""Pictures to matplotlib figures, PNG bytes and SVG text. Deterministic: the same picture gives the same files.

No pyplot: figures belong to nobody but their caller, and rcParams are set only while one is drawn or written.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from analysis.plots import style
from analysis.plots.picture import Axis, Band, Layer, Line, Panel, Picture, Points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

PNG_DOTS_PER_INCH = 150

_DASHES = {"solid": "-", "dashed": (0, (4, 2)), "dotted": (0, (1, 1.5))}
_MARKERS = {"circle": "o", "star": "*", "triangle": "^", "diamond": "D", "cross": "x", "square": "s"}

# Inches. Fixed margins instead of a layout engine: figures are equal in size from study to study, and quick to draw.
_PANEL_WIDTHS = {1: 5.4, 2: 4.0, 3: 3.3}
_PANEL_HEIGHT = 3.7
_LEFT, _GAP, _TOP, _BOTTOM, _RIGHT = 0.72, 0.82, 0.62, 0.56, 0.2
_CAPTION_LINE, _CAPTION_CHARACTER, _LEGEND_CHARACTER = 0.145, 0.0625, 0.068
_LEGEND_HANDLE = 0.5


@contextmanager
def _house_style(salt: str) -> Iterator[None]:
    """matplotlib's settings for one figure; `salt` keeps the ids of several SVGs on one page apart and stable."""
    settings = {
        "font.family": ["DejaVu Sans"],
        "font.size": 8.5,
        "text.parse_math": False,  # names come from data: a "$" in one is a dollar sign
        "axes.edgecolor": style.GREY,
        "axes.labelcolor": style.INK,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "xtick.color": style.INK,
        "ytick.color": style.INK,
        "grid.color": "#e3e3e3",
        "grid.linewidth": 0.6,
        "legend.fontsize": 8,
        "legend.title_fontsize": 8,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "path.simplify": True,
    }
    with rc_context(settings):
        yield


def draw(picture: Picture, *, caption: bool = True) -> Figure:
    """The picture as a figure; the caption below it, unless the page around it carries the caption."""
    with _house_style(picture.stem):
        return _draw(picture, caption=caption)


def png(picture: Picture) -> bytes:
    with _house_style(picture.stem):
        figure = _draw(picture, caption=True)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None, "Title": picture.title})
        return buffer.getvalue()


def svg(picture: Picture, *, caption: bool = True) -> str:
    """SVG with its text as text, without a date."""
    with _house_style(picture.stem):
        figure = _draw(picture, caption=caption)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Title": picture.title})
        return buffer.getvalue()


def _draw(picture: Picture, *, caption: bool) -> Figure:
    panels = picture.panels
    panel_width = _PANEL_WIDTHS[len(panels)]
    entries = legend_entries(picture)
    texts = [picture.legend_title, *(text for text, _ in entries)]
    legend_width = _LEGEND_HANDLE + _LEGEND_CHARACTER * max(map(len, texts)) if entries else 0.0
    width = _LEFT + len(panels) * panel_width + (len(panels) - 1) * _GAP + _RIGHT + legend_width
    lines = textwrap.wrap(picture.caption, int((width - 0.3) / _CAPTION_CHARACTER)) if caption else []
    bottom = _BOTTOM + (0.16 + _CAPTION_LINE * len(lines) if lines else 0.0)
    height = _TOP + _PANEL_HEIGHT + bottom

    figure = Figure(figsize=(width, height), dpi=PNG_DOTS_PER_INCH, facecolor="white")
    figure.text(0.15 / width, 1 - 0.14 / height, picture.title, fontsize=10.5, fontweight="bold", va="top", color=style.INK)
    for k, panel in enumerate(panels):
        left = _LEFT + k * (panel_width + _GAP)
        rectangle = (left / width, bottom / height, panel_width / width, _PANEL_HEIGHT / height)
        _draw_panel(figure.add_axes(rectangle), panel)
    if entries:
        figure.legend(
            [_handle(layer) for _, layer in entries],
            [text for text, _ in entries],
            title=picture.legend_title or None,
            loc="upper left",
            bbox_to_anchor=(1 - (legend_width + 0.1) / width, 1 - (_TOP - 0.05) / height),
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.8,
            alignment="left",
        )
    if lines:
        figure.text(0.15 / width, 0.1 / height, "\n".join(lines), fontsize=7.5, color="#4d4d4d", va="bottom", linespacing=1.25)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    x_limits, y_limits = panel.limits(panel.x), panel.limits(panel.y)
    _set_axis(axes, "x", panel.x, x_limits)
    _set_axis(axes, "y", panel.y, y_limits)
    axes.grid(True, zorder=0)
    axes.set_axisbelow(True)
    if panel.title:
        axes.set_title(panel.title, fontsize=9, loc="left", color=style.INK)
    if panel.zero_line:
        axes.axhline(0.0, color=style.INK, linewidth=0.8, zorder=1.5)
    for shade in panel.shades:
        span, limits = (axes.axvspan, x_limits) if shade.along == "x" else (axes.axhspan, y_limits)
        start, end = shade.clipped(limits)
        if end <= start:
            continue
        span(start, end, facecolor=style.SHADE, edgecolor="none", zorder=0.1)
        horizontal = shade.along == "x"
        at = (start, 0.985) if horizontal else (0.985, end)
        axes.annotate(
            shade.label,
            at,
            xycoords=("data", "axes fraction") if horizontal else ("axes fraction", "data"),
            xytext=(3, 0) if horizontal else (0, -3),
            textcoords="offset points",
            fontsize=7,
            fontstyle="italic",
            color=style.GREY,
            va="top",
            ha="left" if horizontal else "right",
        )
    for layer in panel.layers:
        _draw_layer(axes, panel, layer, x_limits, y_limits)


def _set_axis(axes: Axes, which: str, axis: Axis, limits: tuple[float, float]) -> None:
    setter = axes.set_xscale if which == "x" else axes.set_yscale
    setter("log" if axis.log else "linear")
    (axes.set_xlim if which == "x" else axes.set_ylim)(*limits)
    drawn = axes.xaxis if which == "x" else axes.yaxis
    places = style.ticks(*limits, log=axis.log)
    drawn.set_major_locator(FixedLocator(places))
    drawn.set_major_formatter(lambda value, _: style.format_number(value, axis.unit))
    drawn.set_minor_locator(NullLocator())
    drawn.set_label_text(axis.label)


def _draw_layer(
    axes: Axes, panel: Panel, layer: Layer, x_limits: tuple[float, float], y_limits: tuple[float, float]
) -> None:
    x = layer.table[panel.x.column].to_numpy(dtype=float)
    if isinstance(layer, Band):
        low, high = (layer.table[column].to_numpy(dtype=float) for column in ("low", "high"))
        # An unbounded interval reaches the panel's edge.
        low, high = np.clip(low, y_limits[0], None), np.clip(high, None, y_limits[1])
        axes.fill_between(x, low, high, color=layer.colour, alpha=layer.opacity, linewidth=0, zorder=1)
        return
    y = layer.table[panel.y.column].to_numpy(dtype=float)
    if isinstance(layer, Line):
        axes.plot(x, y, color=layer.colour, linewidth=layer.width, linestyle=_DASHES[layer.dash], zorder=2)
        if layer.end_label is not None:
            _write(axes, layer.end_label, float(x[-1]), float(y[-1]), layer.colour)
    elif isinstance(layer, Points):
        if "low" in layer.table:
            errors = np.abs(np.stack([y - layer.table["low"].to_numpy(dtype=float), layer.table["high"].to_numpy(dtype=float) - y]))
            axes.errorbar(x, y, errors, fmt="none", ecolor=layer.colour, elinewidth=0.9, capsize=2, zorder=2.5)
        axes.plot(x, y, linestyle="none", zorder=3, **_marker(layer))
        if layer.labels is not None:
            for text, px, py in zip(layer.table[layer.labels], x, y, strict=True):
                if x_limits[0] <= px <= x_limits[1] and y_limits[0] <= py <= y_limits[1]:
                    _write(axes, str(text), px, py, style.INK)


def _write(axes: Axes, text: str, x: float, y: float, colour: str) -> None:
    axes.annotate(
        text,
        (x, y),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=7,
        color=colour,
        annotation_clip=True,
        zorder=4,
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.6},
    )


def _marker(layer: Points) -> dict[str, object]:
    scale = 1.7 if layer.marker == "star" else 1.0
    return {
        "marker": _MARKERS[layer.marker],
        "markersize": layer.size * scale,
        "markerfacecolor": "white" if layer.hollow else layer.colour,
        "markeredgecolor": layer.colour if layer.hollow or layer.marker == "cross" else "white",
        "markeredgewidth": 1.3 if layer.hollow or layer.marker == "cross" else 0.5,
    }


def legend_entries(picture: Picture) -> list[tuple[str, Layer]]:
    """Legend texts in order of first use, each with the layer that shows its look."""
    entries: dict[str, Layer] = {}
    for panel in picture.panels:
        for layer in panel.layers:
            if layer.legend is not None:
                entries.setdefault(layer.legend, layer)
    return list(entries.items())


def _handle(layer: Layer) -> Artist:
    if isinstance(layer, Band):
        return Patch(facecolor=layer.colour, alpha=layer.opacity, linewidth=0)
    if isinstance(layer, Line):
        return Line2D([], [], color=layer.colour, linewidth=max(layer.width, 1.2), linestyle=_DASHES[layer.dash])
    assert isinstance(layer, Points)
    return Line2D([], [], linestyle="none", **_marker(layer))
