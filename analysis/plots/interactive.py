"""Pictures to Plotly figures as plain JSON values, for the report. Plotly itself is not imported: it is a page's script.

Texts from data are escaped here, since Plotly reads a small HTML in its labels.
"""

from __future__ import annotations

import html
import math
from typing import Any

import pandas as pd

from analysis.plots import style
from analysis.plots.picture import Axis, Band, Layer, Line, Panel, Picture, Points, Shade

_DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot"}
_SYMBOLS = {
    "circle": "circle",
    "star": "star",
    "triangle": "triangle-up",
    "diamond": "diamond",
    "cross": "x-thin",
    "square": "square",
}
_POINT_TO_PIXEL = 4 / 3
_PANEL_TICKS = {1: 8, 2: 6, 3: 4}
_PANEL_GAP = {1: 0.0, 2: 0.13, 3: 0.08}

#: Columns that a hover text shows, in order, with their words and units.
_HOVER: dict[str, tuple[str, style.Unit]] = {
    "n_params": ("N", "count"),
    "n_tokens": ("D", "count"),
    "tokens_per_param": ("D/N", "plain"),
    "flops": ("C", "power"),
    "flops_budget": ("budget", "power"),
    "seed": ("seed", "plain"),
    "seeds": ("seeds", "plain"),
    "loss": ("loss", "plain"),
    "predicted": ("predicted", "plain"),
    "residual": ("residual", "percent"),
    "demand_tokens": ("demand", "count"),
    "cost": ("cost", "plain"),
    "excess": ("over the least", "percent"),
    "regret": ("over the least", "percent"),
    "batch": ("batch", "plain"),
    "decode_tokens_per_second": ("decode tokens/s", "count"),
    "prefill_tokens_per_second": ("prefill tokens/s", "count"),
    "tpot_seconds": ("time a token", "seconds"),
    "k_n": ("size ratio", "plain"),
    "k_d": ("token ratio", "plain"),
    "overhead": ("extra compute", "percent"),
    "distance": ("distance", "plain"),
    "error": ("predicted over measured − 1", "percent"),
    "fitted_runs": ("fitted runs", "plain"),
    "flag": ("", "plain"),
}


def figure(picture: Picture) -> dict[str, Any]:
    """`{"data": [...], "layout": {...}}` for `Plotly.newPlot`; panels side by side, one legend."""
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": style.INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "margin": {"l": 64, "r": 16, "t": 44 if any(panel.title for panel in picture.panels) else 28, "b": 48},
        "legend": {"title": {"text": html.escape(picture.legend_title)}, "font": {"size": 12}, "tracegroupgap": 2},
        "shapes": [],
        "annotations": [],
    }
    named: set[str] = set()
    for k, panel in enumerate(picture.panels):
        suffix = "" if k == 0 else str(k + 1)
        place = {"domain": _domain(k, len(picture.panels)), "anchor": f"y{suffix}"}
        layout[f"xaxis{suffix}"] = _axis(panel, panel.x, _PANEL_TICKS[len(picture.panels)]) | place
        layout[f"yaxis{suffix}"] = _axis(panel, panel.y, 8) | {"anchor": f"x{suffix}", "zeroline": panel.zero_line}
        # Bands below all else, as in print.
        for layer in sorted(panel.layers, key=lambda layer: not isinstance(layer, Band)):
            first = layer.legend is not None and layer.legend not in named
            named.add(layer.legend or "")
            data += [trace | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"} for trace in _traces(panel, layer, first)]
        layout["shapes"] += _shapes(panel, suffix)
        layout["annotations"] += _annotations(panel, suffix)
    return {"data": data, "layout": layout}


def _domain(k: int, count: int) -> list[float]:
    gap = _PANEL_GAP[count]
    width = (1 - gap * (count - 1)) / count
    start = k * (width + gap)
    return [round(start, 4), round(start + width, 4)]


def _axis(panel: Panel, axis: Axis, most_ticks: int) -> dict[str, Any]:
    low, high = panel.limits(axis)
    value: dict[str, Any] = {
        "title": {"text": html.escape(axis.label), "standoff": 8},
        "type": "log" if axis.log else "linear",
        "range": [math.log10(low), math.log10(high)] if axis.log else [low, high],
        "gridcolor": "#e3e3e3",
        "linecolor": style.GREY,
        "ticks": "outside",
        "tickcolor": style.GREY,
        "zeroline": False,
        "zerolinecolor": style.INK,
        "automargin": True,
    }
    ticks = axis.ticks or style.ticks(low, high, log=axis.log, most=most_ticks)
    # Round ticks as in the print; the page's script lets Plotly choose its own, in the same format, on a zoom.
    formats: dict[style.Unit, dict[str, Any]] = {
        "plain": {},
        "count": {"exponentformat": "B"},
        "power": {"exponentformat": "power"},
        "percent": {"tickformat": ",.3~%"},
        "seconds": {"exponentformat": "SI", "ticksuffix": "s"},
    }
    texts = [html.escape(text) for text in axis.texts or ()] or [style.format_number(tick, axis.unit) for tick in ticks]
    return value | formats[axis.unit] | {"tickmode": "array", "tickvals": ticks, "ticktext": texts}


def _traces(panel: Panel, layer: Layer, first: bool) -> list[dict[str, Any]]:
    common: dict[str, Any] = {
        "type": "scatter",
        "name": html.escape(layer.legend or layer.series, quote=False),
        "showlegend": first,
        "legendgroup": html.escape(layer.legend or layer.series, quote=False),
    }
    x = _numbers(layer.table[panel.x.column])
    if isinstance(layer, Line) and layer.to_edge:
        x = _clipped(layer.table[panel.x.column], panel.limits(panel.x))
    if isinstance(layer, Band):
        low, high = (_clipped(layer.table[column], panel.limits(panel.y)) for column in ("low", "high"))
        hidden = common | {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        fill = {"fill": "tonexty", "fillcolor": _translucent(layer.colour, layer.opacity)}
        return [hidden | {"y": low, "showlegend": False}, hidden | {"y": high} | fill]
    y = _numbers(layer.table[panel.y.column])
    trace = common | {"x": x, "y": y} | _hover(layer)
    if isinstance(layer, Line):
        line = {"color": layer.colour, "width": layer.width * _POINT_TO_PIXEL, "dash": _DASHES[layer.dash]}
        return [trace | {"mode": "lines", "line": line}]
    assert isinstance(layer, Points)
    outline = layer.colour if layer.hollow or layer.marker == "cross" else "#ffffff"
    trace["mode"] = "markers"
    trace["marker"] = {
        "symbol": _SYMBOLS[layer.marker],
        "size": layer.size * _POINT_TO_PIXEL * (1.5 if layer.marker == "star" else 1.0),
        "color": "#ffffff" if layer.hollow else layer.colour,
        "line": {"color": outline, "width": 1.8 if layer.hollow else 0.7},
    }
    if "low" in layer.table:
        table, limits = layer.table, panel.limits(panel.y)
        value = table[panel.y.column].astype(float)
        # Below 0 where the interval leaves its own estimate out: the bar is the interval, wherever the point lies.
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": _numbers(_bounded(table["high"], limits) - value),
            "arrayminus": _numbers(value - _bounded(table["low"], limits)),
            "thickness": 1,
            "width": 3,
            "color": layer.colour,
        }
    return [trace]


def _hover(layer: Layer) -> dict[str, Any]:
    """Hover text of a trace: what all its points share once, in the template, and the rest point by point."""
    table = layer.table
    shared, texts = [], [""] * len(table)
    for column, (words, unit) in _HOVER.items():
        if column not in table:
            continue
        lines = [_hover_line(words, value, unit) for value in table[column]]
        if len(set(lines)) == 1:
            shared.append(lines[0])
        else:
            texts = [f"{text}<br>{line}" if line else text for text, line in zip(texts, lines, strict=True)]
    trace: dict[str, Any] = {}
    head = layer.series if "run" in table or layer.legend is None else layer.legend
    opening = _text(head)
    if "run" in table and table["run"].nunique() == 1:
        opening = f"<b>{_text(str(table['run'].iloc[0]))}</b> · {opening}"
    elif "run" in table:
        texts = [f"<br><b>{_text(str(run))}</b>{text}" for run, text in zip(table["run"], texts, strict=True)]
    trace["text"] = texts
    trace["hovertemplate"] = "<br>".join([f"{opening}%{{text}}", *filter(None, shared)]) + "<extra></extra>"
    if "mlflow_url" in table:
        trace["customdata"] = [safe_url(str(url)) for url in table["mlflow_url"]]
        trace["meta"] = [str(run) for run in table["run"]]
        if len(set(trace["customdata"])) == 1:
            trace["customdata"], trace["meta"] = trace["customdata"][:1], trace["meta"][:1]
    return trace


def _hover_line(words: str, value: Any, unit: style.Unit) -> str:
    if isinstance(value, str):
        return _text(value)
    return "" if pd.isna(value) else f"{words} {style.format_number(float(value), unit, digits=4)}"


def _text(text: str) -> str:
    """Text that Plotly shows as it is: no markup, no template field."""
    return html.escape(text, quote=False).replace("%", "&#37;")


def safe_url(url: str) -> str:
    """The address where it is one of the web; "" for anything else, such as javascript:."""
    return url if url.startswith(("http://", "https://")) else ""


def _shapes(panel: Panel, suffix: str) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = []
    for shade, start, end in _shades(panel):
        ground = {"type": "rect", "layer": "below", "line": {"width": 0}, "fillcolor": style.SHADE}
        if shade.along == "x":
            place = {"xref": f"x{suffix}", "yref": f"y{suffix} domain", "x0": start, "x1": end, "y0": 0, "y1": 1}
        else:
            place = {"xref": f"x{suffix} domain", "yref": f"y{suffix}", "x0": 0, "x1": 1, "y0": start, "y1": end}
        shapes.append(ground | place)
    return shapes


def _shades(panel: Panel) -> list[tuple[Shade, float, float]]:
    """The shades that have an extent inside the panel, with their ends."""
    found = [
        (shade, *shade.clipped(panel.limits(panel.x if shade.along == "x" else panel.y))) for shade in panel.shades
    ]
    return [(shade, start, end) for shade, start, end in found if end > start]


def _annotations(panel: Panel, suffix: str) -> list[dict[str, Any]]:
    """The panel's title and its shades' names above it, and the texts beside points and lines."""
    above = {"xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "y": 1, "yanchor": "bottom", "showarrow": False}
    found: list[dict[str, Any]] = []
    if panel.title:
        found.append(
            above | {"text": _text(panel.title), "x": 0, "xanchor": "left", "yshift": 14, "font": {"size": 12}}
        )
    for shade, _, end in _shades(panel):
        if shade.label and shade.along == "x":
            place = {"xref": f"x{suffix}", "x": _position(panel.x, end), "xanchor": "right"}
            found.append(
                above | place | {"text": f"<i>{_text(shade.label)}</i>", "font": {"size": 11, "color": style.GREY}}
            )
    for layer in panel.layers:
        for text, x, y in _labels(panel, layer):
            low, high = (_position(panel.x, end) for end in panel.limits(panel.x))
            leftwards = isinstance(layer, Line) or _position(panel.x, x) > low + 0.75 * (high - low)
            found.append(
                {
                    "text": _text(text),
                    "x": _position(panel.x, x),
                    "y": _position(panel.y, y),
                    "xref": f"x{suffix}",
                    "yref": f"y{suffix}",
                    "xanchor": "right" if leftwards else "left",
                    "yanchor": "bottom",
                    "showarrow": False,
                    "font": {"size": 11, "color": layer.colour if isinstance(layer, Line) else style.INK},
                }
            )
    return found


def _labels(panel: Panel, layer: Layer) -> list[tuple[str, float, float]]:
    """(text, x, y) of what is written into the panel."""
    columns = [panel.x.column, panel.y.column]
    if isinstance(layer, Line) and layer.end_label is not None:
        x, y = layer.table[columns].iloc[-1]
        return [(layer.end_label, float(x), float(y))]
    if isinstance(layer, Points) and layer.labels is not None:
        rows = layer.table[[layer.labels, *columns]].itertuples(index=False)
        return [(str(text), float(x), float(y)) for text, x, y in rows]
    return []


def _position(axis: Axis, value: float) -> float:
    """Where an annotation stands: Plotly takes exponents on a log axis."""
    return math.log10(value) if axis.log else value


def _numbers(values: pd.Series[Any]) -> list[float | None]:
    """Floats to six digits: JSON knows neither NaN nor infinities, and a page needs no more."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.astype(float)]


def _clipped(values: pd.Series[Any], limits: tuple[float, float]) -> list[float | None]:
    return _numbers(_bounded(values, limits))


def _bounded(values: pd.Series[Any], limits: tuple[float, float]) -> pd.Series[float]:
    """Bounds with infinite ones cut far outside the panel."""
    return values.astype(float).clip(limits[0] / 1e3 if limits[0] > 0 else 10 * limits[0], 1e3 * abs(limits[1]))


def _translucent(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
