"""A study from end to end: what it works out at the quickstart's scale, and what it leaves out with a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from analysis.answer import put_in_words
from analysis.decisions.costs import Prices, flops_costs, flops_rule, measured_costs, training_flops
from analysis.decisions.describe_recommendation import headline
from analysis.decisions.matched_pairs import loss_noise
from analysis.decisions.serving import fit_affine, measure_serving
from analysis.optima.frontier import frontier
from analysis.optima.isoflop import isoflop
from analysis.results import MatchedPair, PairSide, Study
from analysis.runs.load import load_curves, load_runs
from analysis.runs.table import RunTable
from analysis.study import analyse
from llama.errors import UserError
from tests.analysis.synthetic import (
    BUDGETS,
    DECODE_SECONDS,
    PREFILL_SECONDS,
    TRAIN_SECONDS,
    SyntheticSweep,
    law_loss,
    write_sweep,
)
from tests.analysis.tables import make_table


@pytest.fixture(scope="module")
def study(sweep: SyntheticSweep) -> Study:
    return analyse(load_runs(sweep.folder), curves=load_curves(sweep.folder), bootstrap=300)


def test_nothing_is_absent_from_a_whole_sweep(study: Study) -> None:
    assert study.absent == {}
    for field in dataclasses.fields(study):
        assert getattr(study, field.name) is not None


class TestCosts:
    def test_serving_is_found_again(self, study: Study) -> None:
        assert study.serving is not None
        decode, prefill = study.serving.batches[-2:]
        assert (decode.phase, decode.batch, prefill.phase, prefill.batch) == ("decode", None, "prefill", None)
        assert (decode.t0_seconds, decode.seconds_per_param) == pytest.approx(DECODE_SECONDS)
        assert (prefill.t0_seconds, prefill.seconds_per_param) == pytest.approx(PREFILL_SECONDS)
        assert study.serving.prompt_share == 0.5
        mean = [(d + p) / 2 for d, p in zip(DECODE_SECONDS, PREFILL_SECONDS, strict=True)]
        assert (study.serving.per_token.intercept, study.serving.per_token.slope) == pytest.approx(mean)
        assert study.serving.per_token.max_rel_error < 1e-6

    def test_a_prompt_share_weighs_prefill(self, sweep: SyntheticSweep) -> None:
        serving = measure_serving(load_runs(sweep.folder), prompt_share=1.0)
        assert (serving.per_token.intercept, serving.per_token.slope) == pytest.approx(PREFILL_SECONDS)
        with pytest.raises(UserError, match=r"1\.5; it must be from 0 to 1"):
            measure_serving(load_runs(sweep.folder), prompt_share=1.5)

    def test_training_seconds_and_dollars(self, sweep: SyntheticSweep, study: Study) -> None:
        assert study.costs is not None
        assert study.costs.unit == "core-seconds"
        assert (study.costs.train.intercept, study.costs.train.slope) == pytest.approx(TRAIN_SECONDS)
        assert study.serving is not None
        in_dollars = measured_costs(load_runs(sweep.folder), study.serving, prices=Prices(price_per_hour=7.2))
        assert in_dollars.unit == "USD"
        assert float(in_dollars.train(1e5)) == pytest.approx(float(study.costs.train(1e5)) * 0.002)

    def test_training_flops_follow_the_tables_own(self, study: Study) -> None:
        own = study.train_flops
        assert own.n_params_G[0] == 23120
        assert float(own(23120.0)) == pytest.approx(138240, rel=own.max_rel_error + 1e-9)
        assert own.max_rel_error < 0.06

    def test_six_n_only_by_name(self) -> None:
        table = make_table(np.array([1e8, 2e8]), np.array([1e9, 2e9]), np.array([3.0, 2.9]))
        cost = training_flops(table)
        assert float(cost(1e8)) == 6e8
        assert "named rule" in cost.rule

    def test_a_served_token_is_a_third_of_a_trained_one(self) -> None:
        costs = flops_costs(flops_rule(6.0, ""))
        assert float(costs.serve(1e9)) == pytest.approx(2e9)

    def test_an_affine_fit_never_goes_below_zero(self) -> None:
        intercept, slope, error = fit_affine(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 7.0]))
        assert intercept == 0
        assert slope > 0
        assert error > 0.1

    def test_one_bad_measurement_does_not_bend_the_line_and_is_named(self, tmp_path: Path) -> None:
        made = write_sweep(tmp_path)
        table = load_runs(made.folder)
        slow = set(table.frame["run_id"][table.frame["n_params"] == 132432])
        inference = {
            key: cost.model_copy(update={"points": cost.points[:2]}) if key in slow else cost
            for key, cost in table.inference.items()
        }
        study = analyse(dataclasses.replace(table, inference=inference), bootstrap=0)
        assert study.serving is not None
        decode = study.serving.batches[-2]
        assert (decode.t0_seconds, decode.seconds_per_param) == pytest.approx(DECODE_SECONDS)
        assert any("of 132k parameters" in warning for warning in study.table.warnings)


class TestMeasuredPoints:
    def test_the_frontier_is_a_staircase_of_runs(self, study: Study) -> None:
        flops, loss = ([getattr(point, name) for point in study.frontier] for name in ("flops", "loss"))
        assert flops == sorted(flops)
        assert loss == sorted(loss, reverse=True)
        usable = study.table.usable
        assert loss[-1] == usable["loss"].min()
        for point in study.frontier:
            cheaper = usable[usable["flops"] < point.flops]
            assert not len(cheaper) or cheaper["loss"].min() > point.loss

    def test_bowls_group_by_declared_budget(self, study: Study) -> None:
        assert study.isoflop is not None
        assert [vertex.flops_budget for vertex in study.isoflop.vertices] == list(BUDGETS)
        assert [point.n_runs for point in study.isoflop.vertices[0].points] == [3, 3, 1]

    def test_vertices_of_a_noiseless_law(self, tmp_path: Path) -> None:
        table = load_runs(write_sweep(tmp_path, noise=0.0).folder)
        bowls = isoflop(table, training_flops(table))
        assert bowls is not None
        assert bowls.n_opt is not None
        assert bowls.n_opt.exponent_ci95 is not None
        for vertex in bowls.vertices:
            assert vertex.coefficients is not None
            assert vertex.n_opt is not None
            c0, c1, c2 = vertex.coefficients
            x = np.log(vertex.n_opt) - vertex.ln_n_centre
            assert c1 + 2 * c2 * x == pytest.approx(0, abs=1e-9)
            assert c0 + c1 * x + c2 * x * x == pytest.approx(vertex.loss)
        # 0.375 N and D alike; the parabola and the sizes' own FLOPs bend it a little.
        assert bowls.n_opt.exponent == pytest.approx(0.39, abs=0.05)

    def test_edges_and_thin_bowls_are_flagged_and_kept_out(self) -> None:
        n = np.array([1e5, 2e5, 4e5, 1e5, 2e5, 4e5, 1e5, 2e5, 1e5, 2e5, 4e5])
        budget = np.array([1e12] * 3 + [4e12] * 3 + [8e12] * 2 + [16e12] * 3)
        loss = np.array([3.0, 2.9, 3.0, 3.0, 2.8, 2.7, 2.9, 2.8, 2.8, 2.9, 2.8])
        table = make_table(n, budget / (6 * n), loss, flops=budget, budgets=budget)
        bowls = isoflop(table, training_flops(table))
        assert bowls is not None
        flags = [vertex.flag for vertex in bowls.vertices]
        assert flags[0] is None
        assert flags[1] in ("the least loss is at the largest size", "the vertex lies outside the sizes")
        assert flags[2] == "2 of the 3 sizes that a parabola needs"
        assert flags[3] == "the bowl does not curve upwards"
        assert bowls.vertices[0].n_opt == pytest.approx(2e5)
        assert bowls.n_opt is None
        assert len(bowls.skipped) == 3


class TestMatchedPairs:
    def test_every_pair_is_what_it_says(self, study: Study) -> None:
        measured = [pair for pair in study.pairs if pair.kind == "measured"]
        assert measured
        for pair in measured:
            assert pair.small.n_params < pair.large.n_params
            assert pair.small.n_tokens > pair.large.n_tokens
            assert pair.loss_gap <= pair.tolerance
            assert pair.loss_gap == pytest.approx(pair.small.loss - pair.large.loss)

    def test_break_even_is_where_both_have_cost_the_same(self, study: Study) -> None:
        pair = study.pairs[0]
        small, large = pair.small, pair.large
        assert pair.break_even_tokens
        totals = [
            (side.train_seconds or 0) + pair.break_even_tokens * (side.serve_seconds_per_token or 0)
            for side in (small, large)
        ]
        assert totals[0] == pytest.approx(totals[1])

    def test_the_fitted_pair_stands_apart(self, study: Study) -> None:
        fitted = study.pairs[-1]
        assert fitted.kind == "fitted"
        assert fitted.small.run_id is None
        assert fitted.small.n_params == pytest.approx(fitted.large.n_params / 2)
        assert law_loss(fitted.small.n_params, fitted.small.n_tokens) == pytest.approx(fitted.large.loss, rel=0.02)
        assert all(pair.kind == "measured" for pair in study.pairs[:-1])

    def test_seeds_of_a_cell_are_averaged(self, study: Study) -> None:
        names = [side.name for pair in study.pairs for side in (pair.small, pair.large)]
        assert any("mean of 3 seeds" in name for name in names)


class TestTheAnswer:
    def test_the_headline_is_the_first_pair(self, study: Study) -> None:
        assert "serve" in study.answer.headline
        assert "have paid for the longer training after" in study.answer.headline

    def test_the_optimum_is_near_the_truth(self, study: Study) -> None:
        best = study.budgets[-1].optimum
        assert study.budgets[-1].flops == BUDGETS[-1]
        assert best.ci95 is not None
        assert 80_000 < best.n_params < 110_000
        assert best.n_params in best.ci95["n_params"]

    def test_what_is_not_a_gain_is_said_not_to_be(self, sweep: SyntheticSweep) -> None:
        """Without the longer-trained small models nothing is left to match."""
        table = load_runs(sweep.folder)
        ratio = table.frame["n_tokens"] / table.frame["n_params"]
        frame = table.frame[(table.frame["flops_budget"] == 1.6e12) & (ratio < 40)]
        study = analyse(RunTable(source="few", frame=frame))
        assert "show no gain" in study.answer.headline
        assert "fit" in study.absent
        assert study.fit is None

    def test_what_was_asked_is_answered_first(self, sweep: SyntheticSweep, study: Study) -> None:
        asked = analyse(load_runs(sweep.folder), demand_tokens=1e9, bootstrap=0)
        assert asked.recommendation is not None
        assert asked.answer.headline == headline(asked.recommendation)
        assert asked.answer.sentences[0] == study.answer.headline

    def test_every_part_is_about_the_loss_and_the_demand_that_were_asked_for(self, sweep: SyntheticSweep) -> None:
        asked = analyse(load_runs(sweep.folder), flops=1e12, demand_tokens=1e8, bootstrap=0)
        assert asked.recommendation is not None
        assert asked.lifetime is not None
        best = asked.recommendation.recommended
        assert asked.lifetime.target_loss == pytest.approx(best.loss)
        assert asked.lifetime.demand_tokens == 1e8
        assert asked.lifetime.lifetime_optimal.n_params == pytest.approx(best.n_params, rel=1e-3)

    def test_without_seeds_a_match_is_said_to_rest_on_the_law_s_scatter(self, sweep: SyntheticSweep) -> None:
        table = load_runs(sweep.folder)
        alone = dataclasses.replace(table, frame=table.frame.assign(design=""))
        noise = loss_noise(alone, None)
        assert (noise.sd, noise.source) == (0.01, "assumed")
        assert loss_noise(table, None).source == "seeds"
        found = analyse(alone, bootstrap=0)
        assert found.fit is not None
        assert loss_noise(alone, found.fit).source == "law"
        assert found.pairs[0].tolerance_source == "law"
        assert any("the fitted law's own scatter" in sentence for sentence in found.answer.sentences)

    def test_without_measured_costs_a_pair_is_priced_in_flops(self) -> None:
        side = PairSide(
            run_id=None,
            name="",
            n_params=1e9,
            n_tokens=1e11,
            loss=2.5,
            train_flops=None,
            train_seconds=None,
            decode_tokens_per_second_batch_1=None,
            decode_tokens_per_second_saturated=None,
            serve_seconds_per_token=None,
        )
        pair = MatchedPair(
            kind="fitted",
            small=side,
            large=side,
            loss_gap=0.0,
            tolerance=0.0,
            tolerance_source="law",
            train_flops_ratio=None,
            train_seconds_ratio=None,
            speedup_batch_1=None,
            speedup_saturated=None,
            break_even_tokens=None,
            break_even_range=None,
            serving_gap=None,
            extrapolated=("N is outside",),
        )
        told = put_in_words(
            fit=None,
            budgets=(),
            isoflop=None,
            serving=None,
            lifetime=None,
            pairs=(pair,),
            absent={},
            costs=flops_costs(flops_rule(6.0, "")),
        )
        assert told.sentences[-1].endswith("would never pay counted in FLOPs.")
        assert told.extrapolated == ("the fitted pair: outside the fitted runs",)

    def test_slow_small_models_gain_nothing(self, sweep: SyntheticSweep) -> None:
        table = load_runs(sweep.folder)
        frame = table.frame.assign(decode_tokens_per_second=1e4, prefill_tokens_per_second=1e5)
        study = analyse(dataclasses.replace(table, frame=frame), bootstrap=0)
        assert "but serve no measurably faster at saturation (equally fast)" in study.answer.headline


class TestWhatIsMissing:
    def test_a_bare_csv(self, published_runs: Path) -> None:
        table = load_runs(published_runs / "sardana2024.csv")
        bare = RunTable(source="bare", frame=table.frame.assign(flops=np.nan))
        study = analyse(bare, bootstrap=50)
        assert set(study.absent) == {"frontier", "isoflop", "serving"}
        assert study.costs is not None
        assert study.costs.source == "flops"
        assert any("named rule" in warning for warning in study.table.warnings)
        assert any("named rule" in warning for warning in study.fit.warnings) if study.fit else False
        assert study.budgets

    def test_a_sweep_without_budgets_or_inference(self, tmp_path: Path) -> None:
        made = write_sweep(tmp_path, inference=False, budgets=False)
        study = analyse(load_runs(made.folder), bootstrap=50)
        assert set(study.absent) == {"isoflop", "serving"}
        assert study.frontier
        assert study.lifetime is not None
        assert study.lifetime.costs.source == "flops"

    def test_nothing_usable(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.csv"
        path.write_text("n_params,n_tokens,loss\n1e8,1e9,-1\n", encoding="utf-8")
        with pytest.raises(UserError, match="has no run that can be used: 1 of 1 runs is left out"):
            analyse(load_runs(path))

    def test_another_counting_rule(self, sweep: SyntheticSweep) -> None:
        study = analyse(load_runs(sweep.folder), counting="n_params_matmul", bootstrap=50)
        assert study.fit is not None
        assert study.fit.counting == "n_params_matmul"
        assert study.frontier[0].n_params in study.table.frame["n_params_matmul"].to_numpy()

    def test_the_frontier_needs_flops(self) -> None:
        assert frontier(make_table(np.array([1e8]), np.array([1e9]), np.array([3.0]))) == ()
