"""What choices add to a decision: each factor varied where the table lets it, laws that the runs reject kept out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from analysis.decisions.choose import Setting
from analysis.decisions.costs import flops_costs, flops_rule
from analysis.decisions.describe_recommendation import describe_recommendation
from analysis.decisions.recommend import recommend
from analysis.decisions.trials import Trials, evidence
from analysis.decisions.uncertainty import FACTORS
from analysis.fitting.fit import fit
from analysis.results import Array, Contribution, Factor, Question, Uncertainty
from analysis.runs.load import load_runs
from analysis.runs.table import RunTable
from tests.analysis.synthetic import SyntheticSweep, write_sweep
from tests.analysis.tables import make_table, predict, spread_design

#: alpha far from beta, so that the law of over-training (alpha = beta) can't be right.
UNEQUAL = {"A": 4000.0, "B": 60.0, "E": 1.69, "alpha": 0.45, "beta": 0.18}


ASKED = Setting(
    question=Question(
        kind="compute", value=1e21, unit="FLOPs", demand_tokens=None, prompt_share=None, unique_tokens=None
    ),
    costs=flops_costs(flops_rule(6.0, "6 N")),
    train_flops=flops_rule(6.0, "6 N"),
)


def made_runs(runs: int, noise: float, seed: int = 1) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    n_params, n_tokens = spread_design(runs, rng)
    return n_params, n_tokens, predict(UNEQUAL, n_params, n_tokens) * np.exp(noise * rng.standard_normal(runs))


def of(table: RunTable, bootstrap: int = 60, **options: float) -> Uncertainty:
    found = recommend(table, bootstrap=bootstrap, **{"flops": 1e21, **options}).uncertainty  # type: ignore[arg-type]
    assert found is not None
    return found


def part_of(found: Uncertainty, factor: Factor) -> Contribution:
    return next(part for part in found.contributions if part.factor == factor)


@pytest.fixture(scope="module")
def plain() -> Uncertainty:
    return of(make_table(*made_runs(80, 0.003)))


class TestTheTable:
    def test_every_factor_once_in_order(self, plain: Uncertainty) -> None:
        assert tuple(part.factor for part in plain.contributions) == FACTORS
        for part in plain.contributions:
            assert part.reason
            assert part.sd_log_n is None or part.sd_log_n >= 0

    def test_objectives_are_all_tried_and_one_is_the_fits(self, plain: Uncertainty) -> None:
        tried = [choice for choice in plain.choices if choice.factor == "objective"]
        assert {choice.choice for choice in tried} == {"huber_log", "lad_log", "lsq_log", "lsq"}
        assert [choice.choice for choice in tried if choice.used] == ["huber_log"]
        sizes = [choice.n_params for choice in tried if choice.n_params is not None]
        part = part_of(plain, "objective")
        assert part.sd_log_n == pytest.approx(float(np.log(sizes).std()))
        assert part.n_params is not None
        assert (part.n_params.lo, part.n_params.hi) == pytest.approx((min(sizes), max(sizes)))

    def test_the_joint_interval_holds_what_every_choice_says(self, plain: Uncertainty) -> None:
        assert plain.joint is not None
        for choice in plain.choices:
            if choice.joined and choice.n_params is not None and choice.ci95 is not None:
                assert choice.ci95["n_params"].lo <= plain.joint["n_params"].hi
                assert choice.ci95["n_params"].hi >= plain.joint["n_params"].lo
        used = next(choice for choice in plain.choices if choice.used)
        assert used.n_params is not None
        assert used.n_params in plain.joint["n_params"]

    def test_the_joint_interval_adds_every_factor_to_sampling(self, plain: Uncertainty) -> None:
        parts = [part_of(plain, factor).sd_log_n or 0.0 for factor in FACTORS if factor != "seed"]
        assert plain.sd_log_n == pytest.approx(float(np.sqrt(np.square(parts).sum())))

    def test_the_joint_interval_is_never_narrower_than_sampling(self) -> None:
        for seed in (2, 3):
            found = of(make_table(*made_runs(40, 0.01, seed)), bootstrap=40)
            if found.preferred is None:
                assert (found.sd_log_n or 0) >= (part_of(found, "sampling").sd_log_n or 0)

    def test_what_a_table_cannot_vary_says_why(self, plain: Uncertainty) -> None:
        assert part_of(plain, "counting").sd_log_n is None
        assert "no other count" in part_of(plain, "counting").reason
        assert part_of(plain, "seed").sd_log_n is None
        assert "a column seed would" in part_of(plain, "seed").reason

    def test_without_a_bootstrap_choices_still_spread(self) -> None:
        found = of(make_table(*made_runs(80, 0.003)), bootstrap=0)
        assert found.joint is None
        assert part_of(found, "sampling").sd_log_n is None
        assert (part_of(found, "objective").sd_log_n or 0) > 0


class TestLaws:
    def test_a_law_that_the_runs_reject_is_left_out_with_its_reason(self, plain: Uncertainty) -> None:
        tied = next(choice for choice in plain.choices if choice.choice == "overtraining")
        assert not tied.joined
        assert tied.reason is not None
        assert "AIC" in tied.reason
        assert tied.n_params is not None

    def test_laws_are_compared_over_the_runs_that_the_fit_kept(self) -> None:
        n_params, n_tokens, loss = made_runs(80, 0.002)
        loss[:5] *= 1.15
        table = make_table(n_params, n_tokens, loss)
        kept = fit(table, bootstrap=0, drop_outliers=True)
        assert kept.dropped
        trials = Trials(
            table=table, fit=kept, setting=lambda _: ASKED, draws=0, counting="n_params", options={"resampling": "auto"}
        )
        tried, _, _ = trials.laws()
        assert {entry.fit.n_runs for entry in tried if entry.fit is not None} == {kept.n_runs}

    def test_a_law_that_fits_as_well_is_mixed_in(self, plain: Uncertainty) -> None:
        """Skaling holds Chinchilla as k = 1."""
        wider = next(choice for choice in plain.choices if choice.choice == "skaling")
        assert wider.joined
        assert part_of(plain, "law").sd_log_n is not None

    def test_evidence_prefers_the_truth(self) -> None:
        table = make_table(*made_runs(80, 0.003))
        aic = {
            law: evidence(fit(table, law=law, bootstrap=0), table) for law in ("chinchilla", "skaling", "overtraining")
        }
        assert aic["chinchilla"] < aic["overtraining"] - 10
        assert abs(aic["chinchilla"] - aic["skaling"]) < 10

    def test_asking_with_a_rejected_law_warns(self) -> None:
        """It keeps the headline, which says so, and has no part in what the choices together leave open."""
        found = recommend(make_table(*made_runs(80, 0.003)), flops=1e21, law="overtraining", bootstrap=40)
        assert any("speak against the law overtraining" in warning for warning in found.warnings)
        whole = found.uncertainty
        assert whole is not None
        assert whole.preferred is not None
        assert whole.joint is not None
        assert not next(choice for choice in whole.choices if choice.choice == "overtraining").joined
        assert "varied over overtraining" not in part_of(whole, "law").reason
        assert whole.preferred.n_params is not None
        assert whole.preferred.n_params in whole.joint["n_params"]
        first = describe_recommendation(found).splitlines()[0]
        assert "by a law that these runs reject (overtraining)" in first
        assert f"By {whole.preferred.choice}, which they prefer, it is" in first

    def test_kaplans_law_is_tried_where_its_count_is_known(self, sweep: SyntheticSweep) -> None:
        found = of(load_runs(sweep.folder), bootstrap=20, flops=1e12)
        assert "kaplan" in {choice.choice for choice in found.choices}

    def test_a_weighted_run_speaks_by_its_noise(self) -> None:
        n_params, n_tokens, loss = made_runs(80, 0.003)
        table = make_table(n_params, n_tokens, loss)
        found = fit(table, bootstrap=0)
        heavy = dataclasses.replace(
            found, points=tuple(dataclasses.replace(point, weight=4.0) for point in found.points)
        )
        # Twice as far off in units of its noise, all runs alike: 2 n ln 2 on every law.
        assert evidence(heavy, table) - evidence(found, table) == pytest.approx(2 * 80 * np.log(2))

    def test_branches_of_a_trunk_are_one_witness(self) -> None:
        n_params, n_tokens, loss = made_runs(80, 0.003)
        alone = make_table(n_params, n_tokens, loss)
        grouped = make_table(n_params, n_tokens, loss, groups=[f"trunk-{i % 10}" for i in range(80)])
        found = fit(alone, bootstrap=0)
        parameters = 2 * len(found.params)
        assert evidence(found, grouped) - parameters == pytest.approx((evidence(found, alone) - parameters) / 8)


class TestOutliers:
    def test_five_bad_runs_move_the_decision_and_it_shows(self) -> None:
        n_params, n_tokens, loss = made_runs(80, 0.002)
        loss[:5] *= 1.15
        found = of(make_table(n_params, n_tokens, loss), bootstrap=20)
        tried = [choice for choice in found.choices if choice.factor == "outliers"]
        assert [choice.choice for choice in tried] == ["kept", "dropped"]
        assert part_of(found, "outliers").sd_log_n is not None

    def test_no_outlier_is_said_and_adds_nothing(self) -> None:
        """Even noise leaves no run five robust sds off."""
        rng = np.random.default_rng(5)
        n_params, n_tokens, loss = made_runs(80, 0.0)
        part = of(make_table(n_params, n_tokens, loss * np.exp(rng.uniform(-0.004, 0.004, 80))), bootstrap=20)
        assert [choice.choice for choice in part.choices if choice.factor == "outliers"] == ["kept"]
        assert part_of(part, "outliers").sd_log_n == 0
        assert "no run is an outlier" in part_of(part, "outliers").reason


class TestASweep:
    def test_counting_rules_are_told_in_all_parameters(self, sweep: SyntheticSweep) -> None:
        table = load_runs(sweep.folder)
        found = recommend(table, target_loss=2.75, counting="n_params_matmul", bootstrap=40).uncertainty
        assert found is not None
        assert found.counting == "n_params"
        rules = {choice.choice: choice for choice in found.choices if choice.factor == "counting"}
        assert set(rules) == {"n_params", "n_params_non_embedding", "n_params_matmul"}
        sizes = [choice.n_params for choice in rules.values() if choice.n_params is not None]
        assert len(sizes) == 3
        # The truth is a law of all parameters; the others are near it once they are told in them.
        assert max(sizes) / min(sizes) < 1.5

    def test_noise_between_seeds_is_a_part_of_sampling(self, sweep: SyntheticSweep) -> None:
        """Three seeds at two sizes, 1 % of noise: what that alone does is less than a few times what resampling shows."""
        found = of(load_runs(sweep.folder), bootstrap=60, flops=1e12)
        seed, sampling = part_of(found, "seed"), part_of(found, "sampling")
        assert "noise between seeds" in seed.reason
        assert seed.sd_log_n is not None
        assert sampling.sd_log_n is not None
        assert 0.1 < seed.sd_log_n / sampling.sd_log_n < 3

    def test_seed_noise_scales_what_is_drawn(self, sweep: SyntheticSweep, tmp_path: Path) -> None:
        quiet, loud = (
            of(load_runs(folder), bootstrap=40, flops=1e12)
            for folder in (write_sweep(tmp_path, noise=0.002).folder, sweep.folder)
        )
        small, large = (part_of(found, "seed").sd_log_n for found in (quiet, loud))
        assert small is not None
        assert large is not None
        assert 2 < large / small < 12


def test_published_runs_vary_by_choice(published_runs: Path) -> None:
    found = of(load_runs(published_runs / "sardana2024.csv"), flops=1e22, bootstrap=60)
    assert (part_of(found, "objective").sd_log_n or 0) > 0.02
    assert (part_of(found, "sampling").sd_log_n or 0) > 0.02
    assert found.joint is not None
    assert found.joint["n_params"].lo < found.joint["n_params"].hi
