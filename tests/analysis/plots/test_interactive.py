from __future__ import annotations

import json
import math

import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis.plots import interactive
from analysis.plots.gallery import make_pictures
from analysis.plots.picture import Axis, Band, Line, Panel, Picture, Points, Shade
from tests.analysis.plots.studies import make_study

X = Axis(column="n_params", label="N", unit="count")
Y = Axis(column="loss", label="loss", unit="plain")


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [made for made in make_pictures(make_study()) if isinstance(made, Picture)]


def one_panel(*layers: Line | Points | Band, shades: list[Shade] | None = None) -> Picture:
    return Picture(stem="p", title="P", caption="", panels=[Panel(x=X, y=Y, layers=list(layers), shades=shades or [])])


def test_plotly_accepts_every_figure(pictures: list[Picture]) -> None:
    for picture in pictures:
        figure = interactive.figure(picture)
        # Plotly raises on an unknown property or a wrong value, and keeps what it takes.
        taken = go.Figure(data=figure["data"], layout=figure["layout"])
        assert [trace.name for trace in taken.data] == [trace["name"] for trace in figure["data"]]
        assert taken.layout.xaxis.title.text == figure["layout"]["xaxis"]["title"]["text"]


def test_figures_are_strict_json(pictures: list[Picture]) -> None:
    for picture in pictures:
        figure = interactive.figure(picture)
        # A NaN or an infinity raises here.
        assert len(json.loads(json.dumps(figure, allow_nan=False))["data"]) == len(figure["data"])


def test_every_plotted_point_is_in_the_chart(pictures: list[Picture]) -> None:
    for picture in pictures:
        expected = sum(
            len(layer.table) * (2 if isinstance(layer, Band) else 1)
            for panel in picture.panels
            for layer in panel.layers
        )
        assert sum(len(trace["x"]) for trace in interactive.figure(picture)["data"]) == expected


def test_each_legend_text_appears_once(pictures: list[Picture]) -> None:
    for picture in pictures:
        names = [trace["name"] for trace in interactive.figure(picture)["data"] if trace["showlegend"]]
        assert len(names) == len(set(names))


def test_hover_names_the_run_and_its_numbers() -> None:
    table = pd.DataFrame({"n_params": [39_400.0], "n_tokens": [2.9e6], "loss": [2.7413], "run": ["w24-C8e11-s0"]})
    trace = interactive.figure(one_panel(Points(table=table, series="run", colour="#000000")))["data"][0]
    text = trace["hovertemplate"].replace("%{text}", trace["text"][0])
    for part in ("w24-C8e11-s0", "N 39.4k", "D 2.9M", "loss 2.741"):
        assert part in text


def test_names_from_data_can_carry_neither_markup_nor_template_fields() -> None:
    evil = "<img src=x onerror=alert(1)>%{customdata}"
    table = pd.DataFrame(
        {"n_params": [1.0, 2.0], "loss": [1.0, 2.0], "run": [evil, "b"], "flag": [evil, evil], "label": evil}
    )
    layer = Points(table=table, series="run", colour="#000000", legend=evil, labels="label")
    written = json.dumps(interactive.figure(one_panel(layer)))
    trace = interactive.figure(one_panel(layer))["data"][0]
    assert "<img" not in written
    assert "%{customdata}" not in trace["hovertemplate"] + "".join(trace["text"])


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "", "//evil"])
def test_only_web_addresses_become_links(url: str) -> None:
    assert interactive.safe_url(url) == ""


def test_a_trace_of_one_run_carries_its_link_once() -> None:
    table = pd.DataFrame({"n_params": [1.0, 2.0], "loss": [1.0, 2.0], "run": "a", "mlflow_url": "http://host/run"})
    trace = interactive.figure(one_panel(Line(table=table, series="trunk", colour="#000000")))["data"][0]
    assert trace["customdata"] == ["http://host/run"]
    assert trace["meta"] == ["a"]


def test_infinite_bounds_are_drawn_far_outside_the_panel() -> None:
    band = Band(
        table=pd.DataFrame({"n_params": [1.0, 2.0], "low": [1.0, 1.0], "high": [2.0, math.inf]}),
        series="b",
        colour="#112233",
    )
    upper = interactive.figure(one_panel(band))["data"][1]
    assert upper["y"][1] > 1e3
    assert upper["fillcolor"] == "rgba(17,34,51,0.2)"


def test_annotations_on_log_axes_stand_at_exponents() -> None:
    table = pd.DataFrame({"n_params": [1e3, 1e5], "loss": [10.0, 100.0]})
    line = Line(table=table, series="contour", colour="#000000", end_label="2.6")
    picture = one_panel(line, shades=[Shade(along="x", start=1e4, end=None)])
    layout = interactive.figure(picture)["layout"]
    label = next(one for one in layout["annotations"] if one["text"] == "2.6")
    assert (label["x"], label["y"]) == pytest.approx((5.0, 2.0))
    assert layout["shapes"][0]["x0"] == 1e4


def test_bands_lie_below_what_they_surround() -> None:
    table = pd.DataFrame({"n_params": [1.0, 2.0], "loss": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5]})
    line = Line(table=table[["n_params", "loss"]], series="law", colour="#000000")
    band = Band(table=table.drop(columns="loss"), series="95 %", colour="#112233")
    traces = interactive.figure(one_panel(line, band))["data"]
    assert [trace.get("fill") for trace in traces] == [None, "tonexty", None]
    assert traces[-1]["y"] == [1.0, 2.0]
