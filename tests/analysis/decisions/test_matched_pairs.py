"""Matched pairs at their borders: units of cost, unlike serving, intervals, learning rates and the range of a law."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.decisions.costs import measured_costs
from analysis.decisions.serving import measure_serving
from analysis.fitting.fit import fit
from analysis.optima.optimum import outside
from analysis.plots.learning_rate import loss_against_learning_rate
from analysis.plots.picture import Picture
from analysis.results import MatchedPair, Study
from analysis.runs.load import load_runs
from analysis.runs.read_sweep import inference_columns
from analysis.runs.table import RunTable, make_frame
from analysis.study import analyse
from llama.errors import UserError
from llama.records import DONE, Done, InferenceCost, read_record, write_record
from tests.analysis.synthetic import TRUTH, SyntheticSweep, write_sweep
from tests.analysis.tables import make_table, predict


@pytest.fixture(scope="module")
def table(sweep: SyntheticSweep) -> RunTable:
    return load_runs(sweep.folder)


@pytest.fixture(scope="module")
def study(table: RunTable) -> Study:
    return analyse(table, bootstrap=0)


def with_inference(table: RunTable, only: set[str] | None = None, *, slower: float = 1.0, **changes: Any) -> RunTable:
    """The table with changed serving records (of `only` some runs), its columns too; a token takes `slower` times as long."""

    def change(cost: InferenceCost) -> InferenceCost:
        points = [
            point.model_copy(
                update={
                    "decode_tokens_per_second": point.decode_tokens_per_second / slower,
                    "prefill_tokens_per_second": point.prefill_tokens_per_second / slower,
                }
            )
            for point in cost.points
        ]
        return cost.model_copy(update={"points": points, **changes})

    inference = {key: change(cost) if only is None or key in only else cost for key, cost in table.inference.items()}
    frame = table.frame.copy()
    for index, key in frame["run_id"].items():
        for name, value in inference_columns(inference[key]).items():
            frame.loc[index, name] = value
    return dataclasses.replace(table, inference=inference, frame=frame)


def of_size(table: RunTable, n_params: float) -> set[str]:
    return set(table.frame["run_id"][table.frame["n_params"] == n_params])


class TestUnits:
    def test_cores_count_in_training_as_in_serving(self, table: RunTable, study: Study) -> None:
        """The same speeds on four cores: four times the cost of both, and the same break-even."""
        four = with_inference(table, threads=4)
        four = dataclasses.replace(four, frame=four.frame.assign(training_threads=4.0))
        made = analyse(four, bootstrap=0)
        assert made.costs is not None
        assert study.costs is not None
        assert made.costs.unit == "core-seconds"
        assert float(made.costs.train(1e5)) == pytest.approx(4 * float(study.costs.train(1e5)))
        assert float(made.costs.serve(1e5)) == pytest.approx(4 * float(study.costs.serve(1e5)))
        assert made.pairs[0].break_even_tokens == pytest.approx(study.pairs[0].break_even_tokens)

    def test_a_share_of_a_gpu(self, table: RunTable, study: Study) -> None:
        """Threads of the host don't count; a quarter of a card for training is a quarter of its seconds."""
        card = with_inference(table, threads=4, device="NVIDIA H100 80GB HBM3")
        card = dataclasses.replace(card, frame=card.frame.assign(training_threads=4.0, gpu_share=0.25))
        made = analyse(card, bootstrap=0)
        assert made.costs is not None
        assert study.costs is not None
        assert made.costs.unit == "GPU-seconds"
        assert float(made.costs.train(1e5)) == pytest.approx(float(study.costs.train(1e5)) / 4)
        assert float(made.costs.serve(1e5)) == pytest.approx(float(study.costs.serve(1e5)))
        assert made.pairs[0].break_even_tokens is not None
        assert study.pairs[0].break_even_tokens is not None
        assert made.pairs[0].break_even_tokens == pytest.approx(study.pairs[0].break_even_tokens / 4)

    def test_cores_and_gpus_do_not_add_up(self, table: RunTable) -> None:
        card = with_inference(table, device="NVIDIA H100 80GB HBM3")
        with pytest.raises(UserError, match="trained in core-seconds and served in GPU-seconds"):
            measured_costs(card, measure_serving(card))
        made = analyse(card, bootstrap=0)
        assert "costs" in made.absent
        assert made.costs is not None
        assert made.costs.source == "flops"
        assert made.pairs[0].serving_gap == "they were trained on another kind of device than they were served on"

    def test_the_cores_are_read_from_the_runs_end(self, tmp_path: Path) -> None:
        made = write_sweep(tmp_path)
        for run in made.index.runs:
            path = tmp_path / "runs" / run.key / DONE
            done = read_record(path, Done)
            if done is not None:
                write_record(path, done.model_copy(update={"threads": 2, "gpu_share": 0.5}))
        frame = load_runs(made.folder).usable
        assert set(frame["training_threads"]) == {2.0}
        assert set(frame["gpu_share"]) == {0.5}


class TestUnlikeServing:
    def test_another_device_is_no_comparison(self, table: RunTable) -> None:
        odd = of_size(table, 72928.0)
        made = analyse(with_inference(table, odd, slower=0.1, device="Another CPU"), bootstrap=0)
        assert made.serving is not None
        assert 72928.0 not in made.serving.per_token.n_params_G
        assert any("73k parameters was measured on Another CPU" in words for words in made.table.warnings)
        measured = [pair for pair in made.pairs if pair.kind == "measured"]
        mixed = [pair for pair in measured if (pair.small.run_id in odd) != (pair.large.run_id in odd)]
        assert mixed
        for pair in mixed:
            assert (pair.speedup_batch_1, pair.speedup_saturated, pair.break_even_tokens) == (None, None, None)
            assert pair.serving_gap is not None
            assert "measured differently" in pair.serving_gap

    @pytest.mark.parametrize(
        "change", [{"prompt_tokens": 960}, {"output_tokens": 8}, {"threads": 2}, {"dtype": "bf16"}]
    )
    def test_nor_are_other_requests_threads_or_dtypes(self, table: RunTable, change: dict[str, Any]) -> None:
        made = measure_serving(with_inference(table, of_size(table, 72928.0), **change))
        assert len(made.left_out) == 1
        assert 72928.0 not in made.per_token.n_params_G
        assert made.prompt_share == 0.5

    def test_sizes_vote_not_runs(self, table: RunTable) -> None:
        """The two smallest sizes have 18 of the 30 runs: their device is still that of two sizes in six."""
        odd = of_size(table, 23120.0) | of_size(table, 38520.0)
        made = measure_serving(with_inference(table, odd, device="Another CPU"))
        assert made.device == "synthetic core"
        assert len(made.left_out) == 2

    def test_speeds_of_unknown_origin_compare_without_a_time(self) -> None:
        made = analyse(bare_pair(decode_tokens_per_second=1e10, prefill_tokens_per_second=4e10), bootstrap=0)
        pair = made.pairs[0]
        assert pair.speedup_saturated == pytest.approx(4)
        assert pair.serving_gap is not None
        assert "prompts were not measured" not in made.answer.headline
        assert "is not recorded" in made.answer.headline
        assert "counted in FLOPs" in made.answer.headline
        without_prompts = analyse(bare_pair(decode_tokens_per_second=1e10), bootstrap=0)
        assert "prompts were not measured" in without_prompts.answer.headline


def bare_pair(**speeds: float) -> RunTable:
    rows = [
        {
            "run_id": name,
            "name": name,
            "n_params": n,
            "n_tokens": d,
            "flops": 6 * n * d,
            "loss": 3.0,
            "status": "finished",
            "tokens_per_second": 1e9 / n,
            **{key: value / n for key, value in speeds.items()},
        }
        for name, n, d in (("large", 1e5, 1e6), ("small", 2.5e4, 6e6))
    ]
    return RunTable(source="bare", frame=make_frame(rows))


class TestWords:
    def test_a_pair_that_the_frontier_drops_is_not_denied(self) -> None:
        """Two runs reach one loss here; the larger is beaten by a cheaper run, which the words must not hide."""
        n, d = np.array([1e5, 5e4, 2.5e4]), np.array([1e6, 2e6, 6e6])
        made = analyse(make_table(n, d, np.array([3.0, 2.9, 3.0]), flops=6 * n * d), bootstrap=0)
        assert not made.pairs
        for words in (made.answer.headline, made.absent["pairs"]):
            assert "no two finished runs" not in words
            assert "that no cheaper run clearly beats" in words

    def test_ratios_near_one_are_per_cents(self, study: Study) -> None:
        assert not any("1x the" in words for words in study.answer.sentences)

    def test_the_mix_of_served_tokens_is_said(self, table: RunTable) -> None:
        made = analyse(table, bootstrap=0, prompt_share=0.67)
        assert any("Tokens served are 67% prompt and 33% output" in words for words in made.answer.sentences)

    def test_interpolation_is_not_called_extrapolation(self, study: Study) -> None:
        assert study.answer.interpolated
        assert not any("interpol" in words for words in study.answer.extrapolated)


class TestBreakEvenRange:
    @staticmethod
    def first(table: RunTable) -> MatchedPair:
        return analyse(table, bootstrap=0).pairs[0]

    def test_it_holds_the_break_even_and_stands_beside_it(self, study: Study) -> None:
        pair = study.pairs[0]
        assert pair.break_even_tokens is not None
        assert pair.break_even_range is not None
        assert pair.break_even_range.lo < pair.break_even_tokens < pair.break_even_range.hi
        assert "tokens served [" in study.answer.headline

    def test_serving_alone_in_quadrature(self, study: Study) -> None:
        """p5 is 5 % below and p95 10 % above the median; the synthetic runs train at one speed a size."""
        pair = study.pairs[0]
        small, large = pair.small.serve_seconds_per_token, pair.large.serve_seconds_per_token
        assert small is not None
        assert large is not None
        assert pair.break_even_tokens is not None
        assert pair.break_even_range is not None
        saved = large - small
        longer = [1 / (1 - 0.10 * small / saved) - 1, 1 / (1 - 0.05 * large / saved) - 1]
        shorter = [1 / (1 + 0.05 * small / saved) - 1, 1 / (1 + 0.10 * large / saved) - 1]
        assert pair.break_even_range.hi / pair.break_even_tokens == pytest.approx(1 + math.hypot(*longer))
        assert pair.break_even_range.lo / pair.break_even_tokens == pytest.approx(1 - math.hypot(*shorter))

    def test_a_spread_of_training_speed_widens_it(self, table: RunTable, study: Study) -> None:
        speed = table.frame["tokens_per_second"] * np.where(np.arange(len(table.frame)) % 2, 0.8, 1.25)
        wide = self.first(dataclasses.replace(table, frame=table.frame.assign(tokens_per_second=speed)))
        narrow = study.pairs[0]
        assert wide.break_even_range is not None
        assert narrow.break_even_range is not None
        assert wide.break_even_tokens is not None
        assert narrow.break_even_tokens is not None
        assert wide.break_even_range.hi / wide.break_even_tokens > narrow.break_even_range.hi / narrow.break_even_tokens


class TestLearningRates:
    @staticmethod
    def swept(table: RunTable) -> RunTable:
        """Every run again at four times its rate, 5 % worse."""
        frame = table.frame[table.frame["excluded"] == ""]
        worse = frame.assign(
            run_id=frame["run_id"] + "-4x",
            name=frame["name"] + "-4x",
            design=frame["design"] + "-4x",
            peak_lr=4 * frame["peak_lr"],
            loss=1.05 * frame["loss"],
        )
        both = pd.concat([frame, worse], ignore_index=True)
        return dataclasses.replace(table, frame=both)

    def test_worse_rates_enter_nothing_but_their_picture(self, table: RunTable, study: Study) -> None:
        made = analyse(self.swept(table), bootstrap=0)
        assert made.fit is not None
        assert study.fit is not None
        assert made.fit.params == pytest.approx(study.fit.params)
        assert made.isoflop is not None
        assert study.isoflop is not None
        assert [vertex.n_opt for vertex in made.isoflop.vertices] == pytest.approx(
            [vertex.n_opt for vertex in study.isoflop.vertices], nan_ok=True
        )
        assert made.frontier == study.frontier
        assert [pair.small.run_id for pair in made.pairs] == [pair.small.run_id for pair in study.pairs]
        left_out = [out for out in made.table.excluded if out.run_id.endswith("-4x")]
        assert len(left_out) == len(study.table.usable)
        assert {out.reason for out in left_out} == {
            "off-rate: trained at 4x the best learning rate of its size and length"
        }
        picture = loss_against_learning_rate(made)
        assert isinstance(picture, Picture)
        assert picture.points()["run_id"].dropna().nunique() == 2 * len(study.table.usable)

    def test_a_fit_of_its_own_leaves_them_out_too(self, table: RunTable, study: Study) -> None:
        alone = fit(self.swept(table), bootstrap=0)
        assert study.fit is not None
        assert alone.n_runs == study.fit.n_runs
        assert any("4x the best learning rate" in out.reason for out in alone.excluded)

    def test_one_rate_a_size_stays(self, table: RunTable) -> None:
        assert table.at_the_best_rate() is table


class TestRangeOfTheLaw:
    def test_the_largest_size_on_the_most_tokens_is_outside(self, study: Study) -> None:
        """N, D and D/N are each in their interval, but no run had that compute."""
        assert study.fit is not None
        known = study.fit.fitted_range
        n_params, n_tokens = known.n_params.hi, known.n_tokens.hi
        assert n_tokens / n_params in known.tokens_per_param
        said = outside(study.fit, n_params, n_tokens)
        assert any(words.startswith("compute as N D") for words in said)
        assert any("is below the best fitted run's" in words for words in said)

    def test_every_fitted_run_is_inside(self, study: Study) -> None:
        assert study.fit is not None
        for point in study.fit.points:
            if not point.held_out:
                assert outside(study.fit, point.n_params, point.n_tokens) == ()


@pytest.mark.parametrize("seed", range(8))
def test_a_sound_fit_raises_no_alarm(seed: int) -> None:
    """At the noise between seeds, rounding alone must not read as failing to converge."""
    rng = np.random.default_rng(seed)
    sizes = np.array([23120.0, 38520.0, 72928.0, 132432.0, 266816.0])
    n = np.repeat(sizes, 5)
    d = np.tile([1.2e11, 2.1e11, 3.8e11, 6.8e11, 1.2e12], 5) / (6 * n)
    loss = predict(TRUTH, n, d) * np.exp(rng.normal(0, 0.002, len(n)))
    made = fit(make_table(n, d, loss), bootstrap=100, seed=seed)
    assert not [words for words in made.warnings if "not exact" in words or "stopped short" in words]
