from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.plots import canvas, interactive
from analysis.plots.picture import Axis, Band, Line, Panel, Picture, Points, Shade

X = Axis(column="n_params", label="N", unit="count")
Y = Axis(column="loss", label="loss", unit="plain", log=False)


def points(n_params: list[float], loss: list[float], **more: object) -> Points:
    table = pd.DataFrame({"n_params": n_params, "loss": loss, **more})
    return Points(table=table, series="run", colour="#000000")


def test_limits_hold_every_framed_point_and_its_interval() -> None:
    dots = points([1e3, 1e5], [2.0, 3.0], low=[1.5, 2.9], high=[2.1, 3.5])
    far = Line(table=pd.DataFrame({"n_params": [1.0], "loss": [99.0]}), series="law", colour="#000000", framed=False)
    panel = Panel(x=X, y=Y, layers=[dots, far])
    x_low, x_high = panel.limits(X)
    y_low, y_high = panel.limits(Y)
    assert 900 > x_low > 500
    assert 1.1e5 < x_high < 2e5
    assert 1.4 <= y_low < 1.5
    assert 3.5 < y_high < 3.7


def test_limits_leave_out_what_no_axis_can_show() -> None:
    panel = Panel(x=X, y=Y, layers=[points([0.0, 1e3, math.nan, 1e4], [1.0, math.inf, 2.0, 3.0])])
    assert panel.limits(X)[0] > 0
    assert all(map(math.isfinite, panel.limits(Y)))


def test_y_limits_look_only_at_points_inside_fixed_x_limits() -> None:
    x = Axis(column="n_params", label="N", unit="count", limits=(10.0, 100.0))
    panel = Panel(x=x, y=Y, layers=[points([1.0, 20.0, 50.0], [99.0, 2.0, 3.0])])
    assert panel.limits(Y)[1] < 4


def test_an_empty_panel_still_draws() -> None:
    picture = Picture(stem="empty", title="Empty", caption="Nothing.", panels=[Panel(x=X, y=Y, layers=[])])
    assert picture.points().empty
    assert canvas.png(picture).startswith(b"\x89PNG")


def test_a_shade_is_cut_to_the_panel() -> None:
    assert Shade(along="x", start=None, end=5.0).clipped((1.0, 10.0)) == (1.0, 5.0)
    start, end = Shade(along="x", start=20.0, end=None).clipped((1.0, 10.0))
    assert end <= start


def test_points_table_has_every_row_of_every_layer() -> None:
    band = Band(
        table=pd.DataFrame({"n_params": [1.0], "low": [2.0], "high": [math.inf]}), series="band", colour="#000000"
    )
    dots = points([1.0, 2.0], [3.0, 4.0], mlflow_url=["http://a", "http://b"])
    picture = Picture(stem="p", title="Title", caption="", panels=[Panel(x=X, y=Y, layers=[dots, band])])
    table = picture.points()
    assert list(table["series"]) == ["run", "run", "band"]
    assert set(table["panel"]) == {"Title"}
    np.testing.assert_array_equal(table["loss"].dropna(), [3.0, 4.0])
    assert "mlflow_url" not in table


def test_names_with_dollars_and_infinite_bands_draw() -> None:
    table = pd.DataFrame(
        {"n_params": [1.0, 2.0], "loss": [1.0, 2.0], "low": [1.0, -math.inf], "high": [math.nan, math.inf]}
    )
    layers = [
        Band(table=table, series="band", colour="#000000", legend="$x_1"),
        Points(table=table[["n_params", "loss"]].assign(label="a$b^c_d"), series="s", colour="#123456", labels="label"),
    ]
    picture = Picture(stem="p", title=r"$\frac", caption="100 $ and $", panels=[Panel(x=X, y=Y, layers=layers)])
    text = canvas.svg(picture)
    assert r"$\frac" in text
    assert "a$b^c_d" in text


def test_a_bar_is_the_interval_even_where_it_leaves_its_own_estimate_out() -> None:
    dots = points([10.0, 20.0, 40.0], [2.0, 2.0, 2.0], low=[2.5, 1.5, 1.0], high=[3.0, 1.8, math.inf])
    picture = Picture(stem="p", title="P", caption="", panels=[Panel(x=X, y=Y, layers=[dots])])
    _, top = picture.panels[0].limits(Y)
    axes = canvas._draw(picture, standalone=True).axes[0]
    bars = [tuple(segment[:, 1]) for collection in axes.collections for segment in collection.get_segments()]
    assert bars == [(2.5, 3.0), (1.5, 1.8), (1.0, top)]
    bars_y = interactive.figure(picture)["data"][0]["error_y"]
    assert [2.0 - below for below in bars_y["arrayminus"]] == [2.5, 1.5, 1.0]
    assert [2.0 + above for above in bars_y["array"][:2]] == [3.0, 1.8]
    assert bars_y["array"][2] > top
