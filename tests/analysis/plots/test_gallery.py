from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis.decisions.search import total_cost
from analysis.laws import get_law
from analysis.plots import canvas, loss_curves, parts, style
from analysis.plots.bowls import isoflop_bowls
from analysis.plots.extrapolation import extrapolation_error
from analysis.plots.gallery import SavedPicture, make_pictures, save_picture, save_pictures
from analysis.plots.inference import inference_speed
from analysis.plots.interactive import figure
from analysis.plots.k_curve import k_curve
from analysis.plots.learning_rate import loss_against_learning_rate
from analysis.plots.lifetime import forecast_regret, lifetime_cost, optimum_against_demand
from analysis.plots.loss_curves import loss_against_flops, loss_against_tokens
from analysis.plots.optima import compute_optima
from analysis.plots.pairs import matched_pair
from analysis.plots.picture import Absent, Band, Line, Picture, Points
from analysis.plots.residuals import residuals
from analysis.plots.uncertainty import uncertainty
from analysis.results import SizeLine, Study
from tests.analysis.plots.studies import BUDGETS, FLOPS_PER_PARAM, LAW, SIZES, bare_study, make_study, without_law

STEMS = {
    "loss-tokens",
    "loss-flops",
    "isoflop-bowls",
    "compute-optima",
    "iso-loss-contours",
    "matched-pair",
    "lifetime-cost",
    "lifetime-optimum",
    "forecast-regret",
    "inference",
    "residuals",
    "k-curve",
    "uncertainty",
    "extrapolation",
}


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study()


def drawn(made: Picture | Absent) -> Picture:
    assert isinstance(made, Picture)
    return made


def test_a_whole_study_gives_every_picture_in_three_files(study: Study, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    saved = [one for one in save_pictures(study, tmp_path) if isinstance(one, SavedPicture)]
    assert {one.picture.stem for one in saved} == STEMS
    assert dict(matplotlib.rcParams) == before
    for one in saved:
        assert one.png.read_bytes().startswith(b"\x89PNG")
        root = ElementTree.parse(one.svg).getroot()
        texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert one.picture.title in texts  # text stays text: it can be searched and edited
        table = pd.read_csv(one.csv)
        assert len(table) == sum(len(layer.table) for panel in one.picture.panels for layer in panel.layers) > 0


def test_files_are_the_same_bytes_every_time(study: Study, tmp_path: Path) -> None:
    for stem in ("first", "second"):
        save_picture(drawn(lifetime_cost(study)), tmp_path / stem)
    for name in ("lifetime-cost.png", "lifetime-cost.svg", "lifetime-cost.csv"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_every_caption_states_the_counting_rule(study: Study) -> None:
    pictures = [made for made in make_pictures(study) if isinstance(made, Picture)]
    assert {picture.stem for picture in pictures} == STEMS
    for picture in pictures:
        assert "N counts all parameters." in picture.caption


def test_other_counting_rules_move_the_points_with_the_caption(study: Study) -> None:
    assert study.fit is not None
    table = study.table.usable
    matmul = replace(study, fit=replace(study.fit, counting="n_params_matmul"))
    picture = drawn(loss_against_tokens(matmul))
    assert "matrix products" in picture.caption
    assert set(picture.points()["n_params"]) == set(table["n_params_matmul"])


def test_a_bare_table_gives_its_points_and_reasons_for_the_rest() -> None:
    made = make_pictures(bare_study())
    assert [one.stem for one in made if isinstance(one, Picture)] == ["loss-tokens", "loss-flops"]
    reasons = {one.stem: one.reason for one in made if isinstance(one, Absent)}
    assert reasons["residuals"] == "three runs can't identify five parameters"
    assert reasons["isoflop-bowls"] == "no declared compute budgets"
    assert all(reasons.values())


def test_without_a_law_the_measured_parts_remain(study: Study) -> None:
    made = {one.stem: one for one in make_pictures(without_law(study))}
    for stem in ("loss-tokens", "loss-flops", "isoflop-bowls", "compute-optima", "matched-pair", "inference"):
        assert isinstance(made[stem], Picture), stem
    for stem in ("iso-loss-contours", "lifetime-cost", "residuals", "k-curve", "extrapolation", "uncertainty"):
        assert made[stem] == Absent(stem=stem, title=made[stem].title, reason="the optimiser did not converge")


def test_a_branch_starts_on_its_trunk(study: Study) -> None:
    layers = [layer for layer in drawn(loss_against_tokens(study)).panels[0].layers if isinstance(layer, Line)]
    trunks = {str(layer.table["run_id"].iloc[0]): layer.table for layer in layers if layer.series.startswith("trunk")}
    parents = {curve.run_id: curve.trunk for curve in study.curves if curve.kind == "branch"}
    branches = [layer.table for layer in layers if layer.series.startswith("branch")]
    assert len(branches) == len(parents)
    for branch in branches:
        trunk = trunks[str(parents[str(branch["run_id"].iloc[0])])]
        first = branch.iloc[0]
        assert ((trunk["n_tokens"] == first["n_tokens"]) & (trunk["loss"] == first["loss"])).any()


def test_sizes_are_named_once_and_held_out_runs_are_hollow(study: Study) -> None:
    picture = drawn(loss_against_tokens(study))
    layers = picture.panels[0].layers
    named = [text for text, _ in canvas.legend_entries(picture)]
    assert named == ["23k", "39.4k", "73.2k", "132k", "267k", "399k", "held out"]
    dots = [layer for layer in layers if isinstance(layer, Points)]
    assert {float(layer.table["n_params"].iloc[0]) for layer in dots if layer.hollow} == {SIZES[-1]}
    assert not any(layer.table["held_out"].any() for layer in dots if not layer.hollow)


def test_legends_stay_short_for_any_number_of_sizes() -> None:
    names = parts.legend_names([float(10**6 + k) for k in range(500)])
    assert len(names) <= 12
    assert {10**6, 10**6 + 499} <= set(names)
    assert parts.legend_names([]) == {}


def test_runs_of_one_budget_that_differ_by_a_batch_are_one_point_of_the_frontier(study: Study) -> None:
    last = study.frontier[-1]
    nearly = replace(last, flops=0.995 * last.flops, loss=last.loss + 0.01, name="nearly")
    panel = drawn(loss_against_flops(replace(study, frontier=(*study.frontier[:-1], nearly, last)))).panels[0]
    frontier = next(layer for layer in panel.layers if layer.series == "measured frontier").table
    assert list(frontier["run"]) == [point.name for point in study.frontier]


def test_the_running_median_keeps_the_ends_and_drops_spikes() -> None:
    values = np.linspace(4.0, 3.0, 41)
    spiked = values.copy()
    spiked[20] = 9.0
    smoothed = loss_curves._running_median(spiked)
    assert (smoothed[0], smoothed[-1]) == (values[0], values[-1])
    np.testing.assert_allclose(smoothed, values, atol=0.03)
    for size in (0, 1, 2, 4):
        np.testing.assert_array_equal(loss_curves._running_median(values[:size]), values[:size])


def test_the_measured_frontier_and_extrapolation_are_on_the_compute_picture(study: Study) -> None:
    panel = drawn(loss_against_flops(study)).panels[0]
    frontier = next(layer for layer in panel.layers if layer.series == "measured frontier").table
    assert list(frontier["run"]) == [point.name for point in study.frontier]
    assert (np.diff(frontier["loss"]) < 0).all()
    assert panel.shades[0].start == study.table.fitted["flops"].max()


def test_only_trusted_vertices_get_a_star(study: Study) -> None:
    assert study.isoflop is not None
    first, *others = study.isoflop.vertices
    edge = replace(first, n_opt=None, d_opt=None, loss=None, flag="the least loss is at the grid's edge")
    layers = (
        drawn(isoflop_bowls(replace(study, isoflop=replace(study.isoflop, vertices=(edge, *others))))).panels[0].layers
    )
    stars = [layer for layer in layers if isinstance(layer, Points) and layer.marker == "star"]
    triangles = [layer for layer in layers if isinstance(layer, Points) and layer.marker == "triangle"]
    assert [float(star.table["n_params"].iloc[0]) for star in stars] == [vertex.n_opt for vertex in others]
    assert float(triangles[0].table["loss"].iloc[0]) == min(point.loss for point in edge.points)


def test_the_law_s_tokens_band_keeps_its_order(study: Study) -> None:
    panels = drawn(compute_optima(study)).panels
    for panel in panels:
        band = next(layer.table for layer in panel.layers if layer.series == "law, 95 % band")
        assert (band["low"] <= band[panel.y.column]).all()
        assert (band[panel.y.column] <= band["high"]).all()


def test_break_even_lies_where_both_sizes_cost_the_same(study: Study) -> None:
    panel = drawn(lifetime_cost(study)).panels[1]
    crossing = next(layer.table for layer in panel.layers if layer.series == "break-even").iloc[0]
    lines = {float(one.table["n_params"].iloc[0]): one.table for one in panel.layers if one.series == "size"}
    excess = [
        np.interp(np.log(crossing["demand_tokens"]), np.log(lines[n]["demand_tokens"]), lines[n]["excess"])
        for n in (crossing["small"], crossing["large"])
    ]
    assert excess[0] == pytest.approx(excess[1], rel=0.02)


def test_the_matched_pair_pays_where_its_lines_cross(study: Study) -> None:
    small, large, crossing = (layer.table for layer in drawn(matched_pair(study)).panels[0].layers)
    at = crossing["demand_tokens"].iloc[0]
    costs = [np.interp(at, side["demand_tokens"], side["cost"]) for side in (small, large)]
    assert costs[0] == pytest.approx(costs[1], rel=0.01)
    assert small["cost"].iloc[0] > large["cost"].iloc[0]
    assert small["cost"].iloc[-1] < large["cost"].iloc[-1]


def test_a_pair_that_never_pays_draws_without_a_crossing(study: Study) -> None:
    pair = replace(study.pairs[0], break_even_tokens=None)
    layers = drawn(matched_pair(replace(study, pairs=(pair,)))).panels[0].layers
    assert [type(layer) for layer in layers] == [Line, Line]


def test_serving_speed_has_one_line_a_size(study: Study) -> None:
    left, right = drawn(inference_speed(study)).panels
    assert len([layer for layer in left.layers if isinstance(layer, Line)]) == len(SIZES)
    batch_1 = next(layer.table for layer in right.layers if layer.series == "batch 1")
    assert list(batch_1["n_params"]) == list(SIZES)
    assert (batch_1["low"] <= batch_1["tpot_seconds"]).all()


def test_residuals_are_relative_errors_of_every_point(study: Study) -> None:
    assert study.fit is not None
    first = drawn(residuals(study)).panels[0]
    table = pd.concat([layer.table for layer in first.layers])
    assert len(table) == len(study.fit.points)
    np.testing.assert_allclose(table["residual"], table["predicted"] / table["loss"] - 1)


def test_drawing_needs_no_pyplot() -> None:
    code = "import sys, analysis.plots.gallery; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_learning_rate_is_drawn_where_one_size_and_length_has_several(study: Study) -> None:
    assert isinstance(loss_against_learning_rate(study), Absent)
    frame = study.table.frame
    usable = frame[frame["excluded"] == ""]
    cell = next(rows.index for _, rows in usable.groupby(["n_params", "n_tokens"]) if len(rows) == 3)
    rates = frame.assign(peak_lr=1e-3)
    rates.loc[cell, "peak_lr"] = [1e-3, 2e-3, 2e-3]
    picture = drawn(loss_against_learning_rate(replace(study, table=replace(study.table, frame=rates))))
    line, points = picture.panels[0].layers
    losses = frame.loc[cell, "loss"].tolist()
    assert line.table["loss"].tolist() == pytest.approx([losses[0], (losses[1] + losses[2]) / 2])
    assert len(points.table) == 3


def test_runs_that_state_no_compute_get_it_by_the_named_rule(study: Study) -> None:
    frame = study.table.frame.assign(flops=np.nan)
    picture = drawn(loss_against_flops(replace(study, table=replace(study.table, frame=frame))))
    runs = pd.concat([layer.table for layer in picture.panels[0].layers if layer.series in ("run", "held-out run")])
    np.testing.assert_allclose(runs["flops"], FLOPS_PER_PARAM * runs["n_params"] * runs["n_tokens"])
    assert "Compute of 42 runs: 7 N." in picture.caption


def test_the_fitted_curves_reach_from_the_smallest_run_past_the_largest(study: Study) -> None:
    for panel in (drawn(loss_against_flops(study)).panels[0], drawn(compute_optima(study)).panels[0]):
        curve = next(layer.table for layer in panel.layers if layer.series in ("fitted frontier", "law"))
        assert curve["flops"].min() == pytest.approx(BUDGETS[0])
        assert curve["flops"].max() == pytest.approx(10 * BUDGETS[-1])


def test_a_size_of_held_out_runs_alone_is_named_and_no_nameless_entry_stands_beside_it(study: Study) -> None:
    without_curves = drawn(loss_against_tokens(replace(study, curves=())))
    named = [text for text, _ in canvas.legend_entries(without_curves)]
    assert named == ["23k", "39.4k", "73.2k", "132k", "267k", "399k held out"]


def test_the_three_approaches_stand_side_by_side_at_one_budget(study: Study) -> None:
    assert study.approaches is not None
    for panel, quantity in zip(drawn(compute_optima(study)).panels, ("n_opt", "d_opt"), strict=True):
        bars = {layer.series: layer.table.iloc[0] for layer in panel.layers if "at the target" in layer.series}
        assert len(bars) == 3
        for one in study.approaches.approaches:
            bar, estimate = bars[f"approach {one.number} at the target"], getattr(one, quantity)
            assert bar[panel.y.column] == estimate.value
            assert (bar["low"], bar["high"]) == (estimate.ci95.lo, estimate.ci95.hi)
        places = sorted(bar["flops"] for bar in bars.values())
        assert places[1] == pytest.approx(study.approaches.flops)
        assert places[0] < places[1] < places[2]
        line = next(layer.table for layer in panel.layers if layer.series == "envelope, power law")
        dots = next(layer.table for layer in panel.layers if layer.series == "envelope")
        assert len(dots) == sum(not point.edge for point in study.approaches.envelope.points)  # type: ignore[union-attr]
        at_dots = np.interp(np.log(dots["flops"]), np.log(line["flops"]), np.log(line[panel.y.column]))
        np.testing.assert_allclose(np.exp(at_dots), dots[panel.y.column], rtol=0.01)


def test_an_approach_without_an_answer_leaves_the_others(study: Study) -> None:
    assert study.approaches is not None
    first, second, third = study.approaches.approaches
    gone = replace(first, n_opt=None, d_opt=None, n_opt_exponent=None, params={}, absent={"all": "two sizes"})
    part = replace(study, approaches=replace(study.approaches, approaches=(gone, second, third)))
    picture = drawn(compute_optima(part))
    series = {layer.series for layer in picture.panels[0].layers}
    assert "envelope" not in series
    assert {"approach 2 at the target", "approach 3 at the target"} <= series
    assert "approach 1" not in picture.caption


def test_extrapolation_shows_every_forecast_under_its_window(study: Study) -> None:
    tried = study.extrapolation
    assert tried is not None
    panel = drawn(extrapolation_error(study)).panels[0]
    dots = [layer for layer in panel.layers if isinstance(layer, Points)]
    assert sum(len(layer.table) for layer in dots) == len(tried.forecasts)
    assert {float(layer.table["n_params"].iloc[0]) for layer in dots if layer.hollow} == {SIZES[-1]}
    band = next(layer.table for layer in panel.layers if isinstance(layer, Band))
    at = tried.max_distance
    high = np.interp(np.log(at), np.log(band["distance"]), band["high"])
    assert high == pytest.approx(np.expm1(1.96 * tried.log_error_sd(at)), rel=0.01)
    assert panel.shades[0].start == at
    assert "1 smaller window could not be fitted" in drawn(extrapolation_error(study)).caption


def test_every_choice_has_its_row_and_the_joint_interval_stands_below(study: Study) -> None:
    assert study.recommendation is not None
    whole = study.recommendation.uncertainty
    assert whole is not None
    assert whole.joint is not None
    picture = drawn(uncertainty(study))
    axis = picture.panels[0].y
    assert axis.texts is not None
    assert axis.ticks is not None
    rows = dict(zip(axis.texts, axis.ticks, strict=True))
    assert min(rows, key=rows.__getitem__) == "all together"
    assert len(rows) == len(whole.choices) + 2  # sampling alone, and all together
    lines = {float(one.table["row"].iloc[0]): one.table for one in picture.panels[0].layers if isinstance(one, Line)}
    joint = lines[rows["all together"]]["n_params"]
    assert (joint.min(), joint.max()) == (whole.joint["n_params"].lo, whole.joint["n_params"].hi)
    assert rows["law: skaling (no answer)"] not in lines
    for row in rows.values():
        assert row not in lines or lines[row]["n_params"].is_monotonic_increasing


def test_an_endless_interval_of_a_choice_still_draws(study: Study, tmp_path: Path) -> None:
    assert study.recommendation is not None
    whole = study.recommendation.uncertainty
    assert whole is not None
    first, *others = whole.choices
    assert first.ci95 is not None
    endless = replace(first, ci95={"n_params": replace(first.ci95["n_params"], hi=np.inf)})
    recommendation = replace(study.recommendation, uncertainty=replace(whole, choices=(endless, *others)))
    picture = drawn(uncertainty(replace(study, recommendation=recommendation)))
    saved = save_picture(picture, tmp_path)
    assert saved.png.stat().st_size > 0
    # The table keeps what is known; only the drawing ends at the panel's edge.
    assert np.isinf(pd.read_csv(saved.csv)["n_params"]).sum() == 1
    edge = picture.panels[0].limits(picture.panels[0].x)[1]
    ends = [max(filter(None, trace["x"])) for trace in figure(picture)["data"] if trace["mode"] == "lines"]
    assert max(ends) > 100 * edge


def test_the_residuals_say_where_structure_was_found(study: Study) -> None:
    caption = drawn(residuals(study)).caption
    assert "N 0.82, D 0.012, D/N 0.82" in caption
    assert "The law lies 0.4 % above the runs with the most tokens." in caption
    assert "p-values" not in drawn(residuals(replace(study, structure=None))).caption


def test_the_k_curve_has_a_band_that_holds_it(study: Study) -> None:
    for panel in drawn(k_curve(study)).panels:
        band = next(layer.table for layer in panel.layers if isinstance(layer, Band))
        curve = next(layer.table for layer in panel.layers if isinstance(layer, Line))
        inside = (band["low"] <= curve[panel.y.column]) & (curve[panel.y.column] <= band["high"])
        assert inside.mean() > 0.9


def test_both_regions_near_the_least_cost_are_drawn(study: Study) -> None:
    panel = drawn(optimum_against_demand(study)).panels[0]
    edges = {
        layer.series: layer.dash for layer in panel.layers if isinstance(layer, Line) and "least cost" in layer.series
    }
    assert edges == {"within 1 % of the least cost": "dashed", "within 5 % of the least cost": "dotted"}


def test_a_shade_that_begins_with_the_grid_begins_at_the_picture_s_edge(study: Study) -> None:
    assert study.lifetime is not None
    everywhere = replace(study.lifetime, extrapolated_G=np.ones_like(study.lifetime.extrapolated_G))
    shade = drawn(forecast_regret(replace(study, lifetime=everywhere))).panels[0].shades[0]
    assert (shade.start, shade.end) == (None, None)


def many_sizes(study: Study, count: int) -> Study:
    """The study with `count` sizes in its lifetime decision, each with its own tokens and cost."""
    lifetime = study.lifetime
    assert lifetime is not None
    law, vector = get_law("chinchilla"), get_law("chinchilla").as_vector(LAW)
    sizes = np.geomspace(2.6e4, 2e5, count)
    tokens = law.tokens_for_loss(vector, sizes, lifetime.target_loss)
    lines = tuple(
        SizeLine(
            n_params=float(n), n_tokens=float(d), cost_G=total_cost(lifetime.costs, n, d, lifetime.demand_tokens_G)
        )
        for n, d in zip(sizes, tokens, strict=True)
    )
    return replace(study, lifetime=replace(lifetime, sizes=lines))


def test_break_evens_of_many_sizes_are_drawn_but_not_all_written(study: Study) -> None:
    left, right = drawn(lifetime_cost(many_sizes(study, 12))).panels
    for panel in (left, right):
        diamonds = next(layer for layer in panel.layers if isinstance(layer, Points))
        assert len(diamonds.table) > 5
        assert (diamonds.table["label"] != "").sum() == 5
    assert [layer.labels for layer in right.layers if isinstance(layer, Points)] == [None]


def test_of_a_thousand_sizes_some_have_a_line_and_the_caption_says_so(study: Study) -> None:
    picture = drawn(lifetime_cost(many_sizes(study, 1000)))
    lines = [layer for layer in picture.panels[0].layers if layer.series == "size"]
    assert len(lines) == 24
    assert "24 of 1000 sizes." in picture.caption


def test_runs_that_all_differ_in_size_share_looks_and_keep_every_point() -> None:
    sizes = np.geomspace(1e6, 1e9, 1000)
    table = pd.DataFrame({"n_params": sizes, "loss": 3.0, "held_out": sizes > 9e8})
    layers = parts.final_points(table, colours=style.size_colours(sizes), named=True)
    assert sum(len(layer.table) for layer in layers) == 1000
    assert len(layers) <= 2 * 48
    luminance = [int(layer.colour[3:5], 16) for layer in layers if isinstance(layer, Points) and not layer.hollow]
    assert luminance == sorted(luminance, reverse=True)
    assert len({layer.legend for layer in layers} - {None}) <= 13


def test_without_a_frontier_of_the_study_the_runs_own_is_drawn(study: Study) -> None:
    panel = drawn(loss_against_flops(replace(study, frontier=()))).panels[0]
    own = next(layer for layer in panel.layers if layer.series == "measured frontier").table
    assert list(own["run"]) == [point.name for point in study.frontier]


def test_the_recommended_plan_s_regret_stands_on_its_line(study: Study) -> None:
    assert study.recommendation is not None
    layers = drawn(forecast_regret(study)).panels[0].layers
    squares = next(layer.table for layer in layers if layer.series == "recommended, 95 %")
    assert squares["regret"].tolist() == [one.extra_cost for one in study.recommendation.regret]
    asked = replace(study.recommendation.question, demand_tokens=1.0)
    elsewhere = replace(study, recommendation=replace(study.recommendation, question=asked))
    picture = drawn(forecast_regret(elsewhere))
    assert "Squares" not in picture.caption
    assert not any(layer.series == "recommended, 95 %" for layer in picture.panels[0].layers)


def test_each_plan_costs_least_at_exactly_the_demand_it_was_made_for(study: Study) -> None:
    assert study.lifetime is not None
    between = float(np.sqrt(study.lifetime.demand_tokens_G[20] * study.lifetime.demand_tokens_G[21]))
    lines = (
        drawn(forecast_regret(replace(study, lifetime=replace(study.lifetime, demand_tokens=between)))).panels[0].layers
    )
    planned = [layer.table for layer in lines if layer.series == "planned model"]
    assert between in [table["forecast_tokens"].iloc[0] for table in planned]
    for table in planned:
        at = np.abs(np.log(table["demand_tokens"] / table["forecast_tokens"])).argmin()
        assert table["regret"].iloc[at] < 1e-3


def test_the_edges_of_near_optimal_sizes_stay_in_the_picture(study: Study) -> None:
    assert study.lifetime is not None
    panel = drawn(optimum_against_demand(study)).panels[0]
    low, high = panel.limits(panel.y)
    assert low < study.lifetime.within_5pct_G2.min()
    assert high > study.lifetime.within_5pct_G2.max()
