"""A Gantt picture: a row for each core, GPU or share of one; colours by size, trunks hatched; use over time beneath."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.plots import style
from analysis.plots.canvas import PNG_DOTS_PER_INCH, house_style
from llama.errors import UserError
from sweeps.planning.gantt.bars import Bar, Gantt
from sweeps.planning.gantt.suffix import check_suffix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches.
_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 9.5, 0.95, 1.75, 0.45, 0.6
_ROW, _LEAST_HEIGHT, _MOST_HEIGHT = 0.32, 0.7, 6.4
_USE_HEIGHT, _BETWEEN = 0.9, 0.12
_CHARACTER, _CAPTION_CHARACTER = 0.066, 0.062
_CAPTION_LINE, _LEGEND_LINE = 0.145, 0.19
#: Rows at least so high have names in their bars and a line around each.
_READABLE_ROW = 0.15
#: Rows at least so high are set apart.
_SEPARATE_ROW = 0.05
_FAILED = "#c0392b"
_TIMES = ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def write_gantt(gantt: Gantt, path: Path) -> None:
    """Draw it into a .png or .svg file.

    Raises:
        UserError: the file has another ending, or can't be written.
    """
    check_suffix(path)
    with house_style("gantt"):
        figure = _draw(gantt)
        canvas = FigureCanvasAgg(figure) if path.suffix == ".png" else FigureCanvasSVG(figure)
        metadata = {"Title": gantt.title, **({"Software": None} if path.suffix == ".png" else {"Date": None})}
        try:
            canvas.print_figure(path, format=path.suffix[1:], dpi=PNG_DOTS_PER_INCH, metadata=metadata)
        except OSError as error:
            raise UserError(f"--gantt: {path} can't be written ({error.strerror})") from None


def _draw(gantt: Gantt) -> Figure:
    rows, entries = sum(gantt.node_rows), list(_legend(gantt))
    least = max(_LEAST_HEIGHT, _LEGEND_LINE * (len(entries) + 2) - _BETWEEN - _USE_HEIGHT)
    height = min(max(_ROW * rows, least), max(_MOST_HEIGHT, least))
    caption = textwrap.wrap(gantt.caption, int((_WIDTH - 0.3) / _CAPTION_CHARACTER))
    bottom = _BOTTOM + _CAPTION_LINE * len(caption)
    whole = _TOP + height + _BETWEEN + _USE_HEIGHT + bottom
    figure = Figure(figsize=(_WIDTH, whole), dpi=PNG_DOTS_PER_INCH, facecolor="white")
    width = (_WIDTH - _LEFT - _RIGHT) / _WIDTH
    upper = figure.add_axes((_LEFT / _WIDTH, (bottom + _USE_HEIGHT + _BETWEEN) / whole, width, height / whole))
    lower = figure.add_axes((_LEFT / _WIDTH, bottom / whole, width, _USE_HEIGHT / whole))
    scale, unit = next(((s, u) for s, u in _TIMES if gantt.end_seconds >= 2 * s), _TIMES[-1])
    end = max(gantt.end_seconds / scale, 1e-9)
    _draw_rows(upper, gantt, scale, end, row_inches=height / max(rows, 1))
    _draw_use(lower, gantt, scale, end)
    lower.set_xlabel(unit)
    place = (0.15 / _WIDTH, 1 - 0.14 / whole)
    figure.text(*place, gantt.title, fontsize=10.5, fontweight="bold", va="top", color=style.INK)
    figure.text(0.15 / _WIDTH, 0.1 / whole, "\n".join(caption), fontsize=7.5, color="#4d4d4d", va="bottom")
    figure.legend(
        handles=entries,
        loc="upper left",
        bbox_to_anchor=(1 - (_RIGHT - 0.12) / _WIDTH, 1 - _TOP / whole),
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        title="size",
        alignment="left",
    )
    return figure


def _colours(gantt: Gantt) -> dict[int, str]:
    return dict(style.size_colours(bar.n_params for bar in gantt.bars))  # type: ignore[arg-type]


def _legend(gantt: Gantt) -> Iterator[Patch]:
    colours = _colours(gantt)
    sizes = dict(sorted((bar.n_params, bar.size) for bar in gantt.bars))
    for n_params, size in sizes.items():
        yield Patch(facecolor=colours[n_params], label=f"{size} ({style.format_number(n_params, 'count')})")
    if any(bar.is_trunk for bar in gantt.bars):
        yield Patch(facecolor="#bbbbbb", edgecolor="white", hatch="////", linewidth=0, label="trunk")
    if any(not bar.is_done for bar in gantt.bars):
        yield Patch(facecolor="white", edgecolor=_FAILED, label="not finished")


def _draw_rows(axes: Axes, gantt: Gantt, scale: float, end: float, *, row_inches: float) -> None:
    rows, readable = sum(gantt.node_rows), row_inches >= _READABLE_ROW
    gap = 0.08 if row_inches >= _SEPARATE_ROW else 0.0
    colours = _colours(gantt)
    looks: dict[tuple[int, bool, bool], list[Bar]] = {}
    for bar in gantt.bars:
        looks.setdefault((bar.n_params, bar.is_trunk, bar.is_done), []).append(bar)
    for (n_params, is_trunk, is_done), bars in looks.items():
        colour = colours[n_params]
        patches = PolyCollection(
            [corners for bar in bars for corners in _corners(bar, scale, gap)],
            facecolors=colour if is_done else "white",
            edgecolors=_FAILED if not is_done else "white" if readable or is_trunk else colour,
            linewidths=0.8 if not is_done else 0.5 if readable else 0.1,
            hatch=("////" if readable else "///////") if is_trunk and is_done else None,
        )
        axes.add_collection(patches)
    if readable:
        _write_names(axes, gantt.bars, scale, end, colours)
    axes.set_xlim(0, end)
    axes.set_ylim(rows, 0)
    axes.set_xticks([])
    _label_rows(axes, gantt, readable=readable)


def _corners(bar: Bar, scale: float, gap: float) -> Iterator[list[tuple[float, float]]]:
    """A rectangle for each stretch of neighbouring rows."""
    start, end = bar.start_seconds / scale, bar.end_seconds / scale
    for first, last in _stretches(bar.rows):
        top, bottom = first + gap, last + 1 - gap
        yield [(start, top), (end, top), (end, bottom), (start, bottom)]


def _stretches(rows: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for row in sorted(rows):
        if found and found[-1][1] == row - 1:
            found[-1] = found[-1][0], row
        else:
            found.append((row, row))
    return found


def _write_names(axes: Axes, bars: Iterable[Bar], scale: float, end: float, colours: dict[int, str]) -> None:
    """Where a bar is long enough for its run's name."""
    inches = _WIDTH - _LEFT - _RIGHT
    for bar in bars:
        start, stop = bar.start_seconds / scale, bar.end_seconds / scale
        if (stop - start) / end * inches < _CHARACTER * len(bar.run) + 0.08:
            continue
        first, last = _stretches(bar.rows)[0]
        dark = bar.is_done and sum(to_rgb(colours[bar.n_params])) < 1.5
        text = axes.text(
            (start + stop) / 2,
            (first + last + 1) / 2,
            bar.run,
            fontsize=6.5,
            ha="center",
            va="center",
            color="white" if dark else style.INK,
        )
        if bar.is_trunk and bar.is_done:
            text.set_bbox({"facecolor": colours[bar.n_params], "linewidth": 0, "pad": 0.8})


def _label_rows(axes: Axes, gantt: Gantt, *, readable: bool) -> None:
    """Each core or GPU by its number where there is room, else each node, else every so many nodes."""
    starts = np.concatenate([[0], np.cumsum(gantt.node_rows)])
    single = len(gantt.node_rows) == 1
    if readable and single:
        units = -(-gantt.node_rows[0] // gantt.rows_a_unit)
        axes.set_yticks([(k + 0.5) * gantt.rows_a_unit for k in range(units)])
        axes.set_yticklabels([f"{gantt.unit} {k + 1}" for k in range(units)])
    else:
        every = -(-len(gantt.node_rows) // 32)
        shown = range(0, len(gantt.node_rows), every)
        axes.set_yticks([(starts[k] + starts[k + 1]) / 2 for k in shown])
        axes.set_yticklabels([f"node {k + 1}" for k in shown], fontsize=8.5 if len(shown) <= 16 else 6.5)
    for start in starts[1:-1] if len(gantt.node_rows) <= 64 else ():
        axes.axhline(start, color=style.INK, linewidth=0.4)
    if gantt.rows_a_unit > 1 and starts[-1] / gantt.rows_a_unit <= 64:
        for start in range(0, int(starts[-1]), gantt.rows_a_unit):
            axes.axhline(start, color=style.GREY, linewidth=0.3)
    axes.tick_params(axis="y", length=0)
    axes.set_facecolor("#f4f4f4")


def _draw_use(axes: Axes, gantt: Gantt, scale: float, end: float) -> None:
    """Units in use over time, of all that there are."""
    changes: dict[float, float] = {0.0: 0.0}
    for bar in gantt.bars:
        units = len(bar.rows) / gantt.rows_a_unit
        changes[bar.start_seconds] = changes.get(bar.start_seconds, 0.0) + units
        changes[bar.end_seconds] = changes.get(bar.end_seconds, 0.0) - units
    times = np.array(sorted(changes))
    use = np.cumsum([changes[time] for time in times]) / gantt.capacity
    mean = float(np.sum(use[:-1] * np.diff(times)) / times[-1]) if times[-1] > 0 else 0.0
    axes.fill_between(times / scale, 0, use, step="post", color=style.SECOND, alpha=0.35, linewidth=0)
    axes.axhline(mean, color=style.INK, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.text(
        0.99 * end,
        mean + (-0.05 if mean > 0.5 else 0.05),
        f"{mean:.0%} on average",
        fontsize=7.5,
        va="top" if mean > 0.5 else "bottom",
        ha="right",
        color=style.INK,
        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.0},
    )
    axes.set_xlim(0, end)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.set_yticklabels(["0 %", "50 %", "100 %"])
    axes.set_ylabel(f"{gantt.unit}s in use")
