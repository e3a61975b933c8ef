"""Pictures to matplotlib figures, PNG bytes and SVG text. Deterministic: the same picture gives the same files.

No pyplot: figures belong to nobody but their caller, and rcParams are set only while one is drawn or written.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from analysis.plots import style
from analysis.plots.picture import Axis, Band, Layer, Line, Panel, Picture, Points, Shade

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

PNG_DOTS_PER_INCH = 150

_DASHES: dict[str, Any] = {"solid": "-", "dashed": (0, (4, 2)), "dotted": (0, (1, 1.5))}
_MARKERS = {"circle": "o", "star": "*", "triangle": "^", "diamond": "D", "cross": "x", "square": "s"}

# Inches. Fixed margins instead of a layout engine: figures are equal in size from study to study, and quick to draw.
_PANEL_WIDTHS = {1: 5.4, 2: 4.0, 3: 3.3}
_PANEL_TICKS = {1: 8, 2: 6, 3: 5}
_PANEL_HEIGHT = 3.7
_LEFT, _GAP, _TOP, _BOTTOM, _RIGHT = 0.8, 0.82, 0.45, 0.56, 0.2
_BARE_TOP, _PANEL_TITLE = 0.22, 0.22
_CAPTION_LINE, _CAPTION_CHARACTER, _LEGEND_CHARACTER = 0.145, 0.0625, 0.064
_LEGEND_HANDLE = 0.5


@contextmanager
def house_style(salt: str) -> Iterator[None]:
    """matplotlib's settings for one figure; `salt` keeps the ids of several SVGs on one page apart and stable."""
    settings: dict[Any, Any] = {
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


def png(picture: Picture) -> bytes:
    with house_style(picture.stem):
        figure = _draw(picture, standalone=True)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_figure(
            buffer, format="png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None, "Title": picture.title}
        )
        return buffer.getvalue()


def svg(picture: Picture, *, standalone: bool = True) -> str:
    """SVG with its text as text, without a date; `standalone=False` leaves title and caption to the page around it."""
    with house_style(picture.stem):
        figure = _draw(picture, standalone=standalone)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_figure(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": picture.title}
        )
        return buffer.getvalue()


def _draw(picture: Picture, *, standalone: bool) -> Figure:
    panels = picture.panels
    panel_width = _PANEL_WIDTHS[len(panels)]
    entries = legend_entries(picture)
    texts = [picture.legend_title, *(text for text, _ in entries)]
    legend_width = _LEGEND_HANDLE + _LEGEND_CHARACTER * max(map(len, texts)) if entries else 0.0
    rows = [len(text) for text in panels[0].y.texts or ()]
    margin = max(_LEFT, 0.35 + _LEGEND_CHARACTER * max(rows, default=0))
    width = margin + len(panels) * panel_width + (len(panels) - 1) * _GAP + _RIGHT + legend_width
    lines = textwrap.wrap(picture.caption, int((width - 0.3) / _CAPTION_CHARACTER)) if standalone else []
    bottom = _BOTTOM + (0.16 + _CAPTION_LINE * len(lines) if lines else 0.0)
    top = (_TOP if standalone else _BARE_TOP) + (_PANEL_TITLE if any(panel.title for panel in panels) else 0.0)
    height = top + _PANEL_HEIGHT + bottom

    figure = Figure(figsize=(width, height), dpi=PNG_DOTS_PER_INCH, facecolor="white")
    if standalone:
        place = (0.15 / width, 1 - 0.14 / height)
        figure.text(*place, picture.title, fontsize=10.5, fontweight="bold", va="top", color=style.INK)
    for k, panel in enumerate(panels):
        left = margin + k * (panel_width + _GAP)
        rectangle = (left / width, bottom / height, panel_width / width, _PANEL_HEIGHT / height)
        _draw_panel(figure.add_axes(rectangle), panel, most_ticks=_PANEL_TICKS[len(panels)])
    if entries:
        figure.legend(
            [_handle(layer) for _, layer in entries],
            [text for text, _ in entries],
            title=picture.legend_title or None,
            loc="upper left",
            bbox_to_anchor=(1 - (legend_width + 0.1) / width, 1 - top / height),
            frameon=False,
            borderpad=0,
            borderaxespad=0,
            handlelength=1.8,
            alignment="left",
        )
    if lines:
        figure.text(
            0.15 / width, 0.1 / height, "\n".join(lines), fontsize=7.5, color="#4d4d4d", va="bottom", linespacing=1.25
        )
    return figure


def _draw_panel(axes: Axes, panel: Panel, *, most_ticks: int) -> None:
    x_limits, y_limits = panel.limits(panel.x), panel.limits(panel.y)
    _set_axis(axes, "x", panel.x, x_limits, most_ticks)
    _set_axis(axes, "y", panel.y, y_limits, 8)
    axes.grid(True, zorder=0)
    axes.set_axisbelow(True)
    if panel.title:
        axes.set_title(panel.title, fontsize=8.5, loc="left", color=style.INK, pad=13)
    if panel.zero_line:
        axes.axhline(0.0, color=style.INK, linewidth=0.8, zorder=1.5)
    for shade in panel.shades:
        start, end = shade.clipped(x_limits if shade.along == "x" else y_limits)
        if end > start:
            _draw_shade(axes, shade, start, end)
    for k, layer in enumerate(panel.layers):
        _draw_layer(axes, panel, layer, zorder=2 + k / len(panel.layers))


def _draw_shade(axes: Axes, shade: Shade, start: float, end: float) -> None:
    """The ground in grey; its label stands above the panel, where no data can be."""
    along_x = shade.along == "x"
    (axes.axvspan if along_x else axes.axhspan)(start, end, facecolor=style.SHADE, edgecolor="none", zorder=0.1)
    axes.annotate(
        shade.label,
        (end, 1.0) if along_x else (1.0, end),
        xycoords=("data", "axes fraction") if along_x else ("axes fraction", "data"),
        xytext=(0, 2) if along_x else (2, 0),
        textcoords="offset points",
        fontsize=7,
        fontstyle="italic",
        color=style.GREY,
        va="bottom" if along_x else "top",
        ha="right" if along_x else "left",
    )


def _set_axis(axes: Axes, which: str, axis: Axis, limits: tuple[float, float], most_ticks: int) -> None:
    (axes.set_xscale if which == "x" else axes.set_yscale)("log" if axis.log else "linear")
    (axes.set_xlim if which == "x" else axes.set_ylim)(*limits)
    drawn = axes.xaxis if which == "x" else axes.yaxis
    drawn.set_major_locator(FixedLocator(axis.ticks or style.ticks(*limits, log=axis.log, most=most_ticks)))
    if axis.texts is not None:
        drawn.set_major_formatter(FixedFormatter(list(axis.texts)))
    else:
        drawn.set_major_formatter(lambda value, _: style.format_number(value, axis.unit))
    drawn.set_minor_locator(NullLocator())
    drawn.set_label_text(axis.label)


def _draw_layer(axes: Axes, panel: Panel, layer: Layer, *, zorder: float) -> None:
    """Lines and points in the panel's order, later ones above; bands below all of them."""
    x = layer.table[panel.x.column].to_numpy(dtype=float)
    ends = [layer.table[column].to_numpy(dtype=float) for column in ("low", "high") if column in layer.table]
    if isinstance(layer, Band):
        # An unbounded interval reaches the panel's edge.
        bottom, top = axes.get_ylim()
        low, high = np.clip(ends[0], bottom, None), np.clip(ends[1], None, top)
        axes.fill_between(x, low, high, color=layer.colour, alpha=layer.opacity, linewidth=0, zorder=1)
        return
    y = layer.table[panel.y.column].to_numpy(dtype=float)
    if isinstance(layer, Line):
        if layer.to_edge:
            x, y = np.clip(x, *axes.get_xlim()), np.clip(y, *axes.get_ylim())
        axes.plot(x, y, color=layer.colour, linewidth=layer.width, linestyle=_DASHES[layer.dash], zorder=zorder)
        if layer.end_label is not None:
            _write(axes, layer.end_label, float(x[-1]), float(y[-1]), layer.colour)
    elif isinstance(layer, Points):
        if ends:
            # An interval may be unbounded, or leave its own estimate out: a bar is the interval, wherever the point lies.
            low, high = (np.clip(end, *axes.get_ylim()) for end in ends)
            middle = np.clip(y, low, high)
            axes.errorbar(
                x,
                middle,
                np.stack([middle - low, high - middle]),
                fmt="none",
                ecolor=layer.colour,
                elinewidth=0.9,
                capsize=2,
                zorder=zorder,
            )
        axes.plot(x, y, linestyle="none", zorder=zorder, **_marker(layer))
        if layer.labels is not None:
            for text, px, py in zip(layer.table[layer.labels], x, y, strict=True):
                _write(axes, str(text), px, py, style.INK)


def _write(axes: Axes, text: str, x: float, y: float, colour: str) -> None:
    """Text beside a point: to its right, or to its left where it would leave the panel."""
    share = float((axes.transData + axes.transAxes.inverted()).transform((x, y))[0])
    leftwards = share > 0.75
    axes.annotate(
        text,
        (x, y),
        xytext=(-3 if leftwards else 4, 3),
        textcoords="offset points",
        ha="right" if leftwards else "left",
        fontsize=7,
        color=colour,
        annotation_clip=True,
        zorder=4,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4},
    )


def _marker(layer: Points) -> dict[str, Any]:
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
