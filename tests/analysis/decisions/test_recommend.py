"""`recommend`: the three questions, costs, alternatives, limits and families, held against the law that made the runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.counting import convert
from analysis.decisions.costs import Prices, flops_costs, flops_rule, mix, priced_flops
from analysis.decisions.describe_recommendation import describe_recommendation, headline
from analysis.decisions.lifetime import break_even_demand
from analysis.decisions.limits import Limits, kv_elements
from analysis.decisions.recommend import recommend
from analysis.decisions.recommend_json import recommend_json
from analysis.decisions.search import cheapest, least_loss, surface, total_cost
from analysis.fitting.extrapolation import expanding_window
from analysis.fitting.fit import fit
from analysis.laws import get_law
from analysis.results import Extrapolation, Fit, Recommendation
from analysis.runs.load import load_runs
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.synthetic import SyntheticSweep
from tests.analysis.tables import make_table, predict, spread_design

LAW = get_law("chinchilla")
TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283}
SARDANA = LAW.as_vector(TRUTH)
FLOPS = flops_costs(flops_rule(6.0, "6 N"))
H100 = Prices(
    price_per_hour=2.5,
    peak_flops=989e12,
    train_utilisation=0.4,
    prefill_utilisation=0.5,
    decode_utilisation=0.05,
)


class Made:
    """Runs of a known law, fitted once; `ask` recommends from them without repeating what it doesn't test."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        n_params, n_tokens = spread_design(120, rng)
        loss = predict(TRUTH, n_params, n_tokens) * np.exp(0.003 * rng.standard_normal(120))
        self.table: RunTable = make_table(n_params, n_tokens, loss)
        self.fit: Fit = fit(self.table, bootstrap=60)
        self.extrapolation: Extrapolation = expanding_window(self.table, self.fit)

    def ask(self, **options: Any) -> Recommendation:
        return recommend(self.table, **{"fit": self.fit, "extrapolation": self.extrapolation, "vary": False, **options})


@pytest.fixture(scope="module")
def made() -> Made:
    return Made()


class TestTheThreeQuestions:
    def test_compute_gives_the_laws_optimum(self, made: Made) -> None:
        found = made.ask(flops=1e21)
        n, d = LAW.compute_optimum(LAW.as_vector(made.fit.params), 1e21)
        best = found.training_optimal
        assert (best.n_params, best.n_tokens) == pytest.approx((float(n), float(d)))
        assert best.cost == pytest.approx(1e21)
        assert found.lifetime_optimal is None
        assert found.regret == ()
        assert found.within_1pct is not None
        assert best.n_params in found.within_1pct

    def test_compute_with_demand_owns_the_same_loss(self, made: Made) -> None:
        found = made.ask(flops=1e21, demand_tokens=1e12)
        train, own = found.training_optimal, found.lifetime_optimal
        assert own is not None
        assert own.loss == pytest.approx(train.loss, rel=1e-9)
        assert own.n_params < train.n_params
        assert own.n_tokens > train.n_tokens

    def test_a_target_loss_comes_back_to_the_laws_own(self, made: Made) -> None:
        """The noisy fit of Sardana's law decides about what the law itself does."""
        found = made.ask(target_loss=2.1, demand_tokens=2e12)
        n, d = cheapest(LAW, SARDANA, FLOPS, 2.1, 2e12)
        own = found.lifetime_optimal
        assert own is not None
        assert own.ci95 is not None
        assert own.n_params == pytest.approx(float(n), rel=0.15)
        assert own.n_tokens == pytest.approx(float(d), rel=0.15)
        assert own.n_params in own.ci95["n_params"]

    def test_a_budget_is_spent_to_the_last_unit(self, made: Made) -> None:
        found = made.ask(budget=3e21, demand_tokens=1e11)
        own = found.lifetime_optimal
        assert own is not None
        assert own.cost == pytest.approx(3e21, rel=1e-9)
        assert own.loss > found.training_optimal.loss
        assert found.training_optimal.cost == pytest.approx(3e21, rel=1e-9)
        assert found.question.unit == "FLOPs"

    def test_budget_and_target_loss_are_two_sides_of_one_optimum(self, made: Made) -> None:
        spent = made.ask(budget=3e21, demand_tokens=1e12).lifetime_optimal
        assert spent is not None
        again = made.ask(target_loss=spent.loss, demand_tokens=1e12).lifetime_optimal
        assert again is not None
        assert again.n_params == pytest.approx(spent.n_params, rel=1e-4)
        assert again.cost == pytest.approx(3e21, rel=1e-6)

    @pytest.mark.parametrize("law", ["skaling", "overtraining", "kaplan"])
    def test_other_laws_answer_too(self, made: Made, law: str) -> None:
        found = recommend(made.table, target_loss=2.4, demand_tokens=1e12, law=law, bootstrap=20, vary=False)
        own = found.lifetime_optimal
        assert own is not None
        assert own.n_params < found.training_optimal.n_params
        other = get_law(law)
        assert float(other.predict(other.as_vector(found.fit.params), own.n_params, own.n_tokens)) == pytest.approx(2.4)


class TestProperties:
    @settings(max_examples=12, deadline=None)
    @given(loss=st.floats(2.0, 3.0), demand=st.floats(1e9, 1e14), more=st.floats(1.5, 100))
    def test_more_demand_means_a_smaller_model(self, made: Made, loss: float, demand: float, more: float) -> None:
        less_served, more_served = (
            made.ask(target_loss=loss, demand_tokens=tokens).lifetime_optimal for tokens in (demand, demand * more)
        )
        assert less_served is not None
        assert more_served is not None
        assert more_served.n_params < less_served.n_params
        assert more_served.n_tokens > less_served.n_tokens

    @settings(max_examples=12, deadline=None)
    @given(loss=st.floats(2.0, 3.0), demand=st.floats(1e9, 1e14), factor=st.floats(0.1, 10))
    def test_no_alternative_is_cheaper(self, made: Made, loss: float, demand: float, factor: float) -> None:
        own = made.ask(target_loss=loss, demand_tokens=demand).lifetime_optimal
        assert own is not None
        other = own.n_params * factor
        tokens = LAW.tokens_for_loss(LAW.as_vector(made.fit.params), other, loss)
        assert float(total_cost(FLOPS, other, tokens, demand)) >= own.cost * (1 - 1e-9)

    @settings(max_examples=12, deadline=None)
    @given(budget=st.floats(1e19, 1e23), demand=st.floats(1e8, 1e12), factor=st.floats(0.1, 10))
    def test_no_alternative_reaches_less_for_the_budget(
        self, made: Made, budget: float, demand: float, factor: float
    ) -> None:
        own = made.ask(budget=budget, demand_tokens=demand).lifetime_optimal
        assert own is not None
        other = own.n_params * factor
        tokens = (budget - demand * 2 * other) / (6 * other)
        if tokens > 0:
            assert float(LAW.predict(LAW.as_vector(made.fit.params), other, tokens)) >= own.loss - 1e-9

    @settings(max_examples=12, deadline=None)
    @given(loss=st.floats(2.0, 3.0), demand=st.floats(1e9, 1e14))
    def test_bands_and_regret(self, made: Made, loss: float, demand: float) -> None:
        found = made.ask(target_loss=loss, demand_tokens=demand)
        assert found.lifetime_optimal is not None
        assert found.within_1pct is not None
        assert found.within_5pct is not None
        assert found.lifetime_optimal.n_params in found.within_1pct
        assert found.within_5pct.lo < found.within_1pct.lo < found.within_1pct.hi < found.within_5pct.hi
        low, same, high = found.regret
        assert (low.factor, same.factor, high.factor) == (0.1, 1.0, 10.0)
        assert same.extra_cost == 0
        assert low.extra_cost >= 0
        assert high.extra_cost >= 0
        assert low.n_params_best > found.lifetime_optimal.n_params > high.n_params_best
        assert found.saved is not None
        assert found.saved >= 0

    @settings(max_examples=12, deadline=None)
    @given(budget=st.floats(1e19, 1e23), largest=st.floats(1e8, 1e11), smallest=st.floats(1e6, 1e8))
    def test_limits_are_kept(self, made: Made, budget: float, largest: float, smallest: float) -> None:
        found = made.ask(budget=budget, demand_tokens=1e9, limits=Limits(largest_size=largest, smallest_size=smallest))
        for best in (found.training_optimal, found.recommended):
            assert smallest * (1 - 1e-9) <= best.n_params <= largest * (1 + 1e-9)
            assert best.ci95 is not None
            assert best.ci95["n_params"].hi <= largest * (1 + 1e-9)


class TestCosts:
    def test_dollars_are_flops_at_the_effective_demand(self, made: Made) -> None:
        """Sardana et al., section 4: D_eff = [c_inf (D_in/U_in + D_out/U_out)] / (c_tr/U_tr)."""
        demand, share = 1e12, 0.7
        found = made.ask(
            target_loss=2.2,
            demand_tokens=demand,
            prompt_share=share,
            prices=Prices(
                price_per_hour=2.5,
                serving_price_per_hour=1.0,
                peak_flops=989e12,
                serving_peak_flops=300e12,
                train_utilisation=0.4,
                prefill_utilisation=0.5,
                decode_utilisation=0.05,
                quantisation=0.6,
            ),
        )
        c_tr, c_inf = 2.5 / 3600 / 989e12, 0.6 * 1.0 / 3600 / 300e12
        effective = c_inf * demand * (share / 0.5 + (1 - share) / 0.05) / (c_tr / 0.4)
        plain = made.ask(target_loss=2.2, demand_tokens=effective).lifetime_optimal
        own = found.lifetime_optimal
        assert own is not None
        assert plain is not None
        assert own.n_params == pytest.approx(plain.n_params, rel=1e-6)
        assert own.cost == pytest.approx(plain.cost * c_tr / 0.4, rel=1e-9)
        assert found.costs.unit == "USD"
        assert found.costs.used["quantisation"] == 0.6
        assert any("2411.04330" in warning for warning in found.warnings)

    def test_prompt_and_output_stay_apart(self) -> None:
        costs = priced_flops(flops_rule(6.0, "6 N"), H100, prompt_share=0.25)
        assert costs.prompt is not None
        assert costs.output is not None
        assert float(costs.output(1e9)) == pytest.approx(10 * float(costs.prompt(1e9)))
        assert float(costs.serve(1e9)) == pytest.approx(
            0.25 * float(costs.prompt(1e9)) + 0.75 * float(costs.output(1e9))
        )
        assert float(costs.serve(1e9)) == pytest.approx(float(mix(costs.prompt, costs.output, 0.25)(1e9)))
        assert float(costs.train(1e9)) == pytest.approx(6e9 * 2.5 / 3600 / 989e12 / 0.4)

    def test_a_served_token_is_a_third_of_a_trained_one(self) -> None:
        assert float(FLOPS.serve(1e9)) == pytest.approx(float(FLOPS.train(1e9)) / 3)

    def test_measured_costs_of_a_sweep(self, sweep: SyntheticSweep) -> None:
        table = load_runs(sweep.folder)
        found = recommend(
            table, target_loss=2.75, demand_tokens=1e7, prompt_share=0.2, prices=Prices(price_per_hour=3.6), bootstrap=0
        )
        assert found.costs.source == "measured"
        assert found.costs.unit == "USD"
        assert found.costs.prompt is not None
        assert found.costs.used["prompt_share"] == 0.2
        # A dollar buys 1,000 core-seconds: 2e-6 + 2.5e-10 N of them a prompt token (`synthetic.PREFILL_SECONDS`).
        assert float(found.costs.prompt(1e5)) == pytest.approx((2e-6 + 2.5e-10 * 1e5) / 1000)

    @pytest.mark.parametrize(
        ("prices", "message"),
        [
            ({"price_per_hour": 0.0}, "--price-per-hour is 0"),
            ({"price_per_hour": -1.0}, "--price-per-hour is -1"),
            ({"peak_flops": float("inf")}, "--peak-flops is inf"),
            ({"decode_utilisation": 1.2}, "--decode-utilisation is 1.2; it is a share"),
            ({"quantisation": float("nan")}, "--quantisation is nan"),
        ],
    )
    def test_impossible_prices(self, prices: dict[str, float], message: str) -> None:
        with pytest.raises(UserError, match=message):
            Prices(**prices)

    @pytest.mark.parametrize(
        ("prices", "share", "message"),
        [
            (Prices(price_per_hour=2.0), 0.5, "needs --peak-flops and --train-utilisation"),
            (Prices(price_per_hour=2.0, peak_flops=1e15, train_utilisation=0.4), 0.5, "needs --prefill-utilisation"),
            (H100, None, "needs --prompt-share"),
            (Prices(decode_utilisation=0.1), 0.5, "needs --price-per-hour"),
        ],
    )
    def test_nothing_is_assumed(self, made: Made, prices: Prices, share: float | None, message: str) -> None:
        with pytest.raises(UserError, match=message):
            made.ask(target_loss=2.2, demand_tokens=1e12, prices=prices, prompt_share=share)

    def test_without_a_demand_serving_needs_no_utilisation(self, made: Made) -> None:
        prices = Prices(price_per_hour=2.0, peak_flops=1e15, train_utilisation=0.4)
        found = made.ask(budget=1e6, prices=prices)
        assert found.training_optimal.cost == pytest.approx(1e6)
        assert found.question.unit == "USD"


class TestDrawsWithoutAnAnswer:
    def test_they_leave_the_interval_open_and_are_counted(self) -> None:
        """Noisy runs leave the law's limit open: some draws put it above a target that the law itself can reach."""
        rng = np.random.default_rng(2)
        n_params, n_tokens = spread_design(60, rng)
        table = make_table(n_params, n_tokens, predict(TRUTH, n_params, n_tokens) * np.exp(rng.normal(0, 0.03, 60)))
        fitted = fit(table, bootstrap=100)
        assert fitted.draws_KP is not None
        target = float(np.quantile(LAW.limit(fitted.draws_KP), 0.9))
        found = recommend(table, target_loss=target, demand_tokens=1e12, fit=fitted, vary=False)
        assert found.lifetime_optimal is not None
        assert found.lifetime_optimal.ci95 is not None
        assert found.lifetime_optimal.ci95["n_params"].hi == np.inf
        assert any("of the resampled laws have no model" in warning for warning in found.warnings)
        assert json.dumps(recommend_json(found), allow_nan=False)
        assert "nan" not in describe_recommendation(found).lower()


class TestAlternatives:
    def test_break_evens_between_named_sizes(self, made: Made) -> None:
        found = made.ask(target_loss=2.3, demand_tokens=1e12, sizes=(2e9, 1e9, 4e9))
        assert [(pair.small, pair.large) for pair in found.break_even] == [(1e9, 2e9), (1e9, 4e9), (2e9, 4e9)]
        params = LAW.as_vector(made.fit.params)
        for pair in found.break_even:
            small, large = (float(LAW.tokens_for_loss(params, n, 2.3)) for n in (pair.small, pair.large))
            expected = 3 * (pair.small * small - pair.large * large) / (pair.large - pair.small)
            assert pair.demand_tokens == pytest.approx(max(0.0, expected))
            assert pair.demand_tokens == break_even_demand(FLOPS, (pair.small, small), (pair.large, large))

    def test_a_named_size_that_never_gets_there_is_skipped_with_a_word(self, made: Made) -> None:
        found = made.ask(target_loss=2.3, demand_tokens=1e12, sizes=(1e6, 2e9, 4e9))
        assert [(pair.small, pair.large) for pair in found.break_even] == [(2e9, 4e9)]
        assert any("--size 1.0M never reaches" in warning for warning in found.warnings)

    def test_regret_holds_the_recommended_size_under_every_law(self, made: Made) -> None:
        """The model is trained before the truth is known: a forecast that comes true costs more than the best then."""
        found = made.ask(target_loss=2.3, demand_tokens=1e12)
        true = next(regret for regret in found.regret if regret.factor == 1)
        assert true.extra_cost == 0
        assert true.ci95 is not None
        assert true.ci95.hi > 0.001

    def test_regret_pays_for_the_wrong_size(self, made: Made) -> None:
        found = made.ask(target_loss=2.3, demand_tokens=1e12)
        own, regret = found.lifetime_optimal, found.regret[-1]
        assert own is not None
        params = LAW.as_vector(made.fit.params)
        paid = total_cost(FLOPS, own.n_params, own.n_tokens, 1e13)
        n, d = cheapest(LAW, params, FLOPS, 2.3, 1e13)
        assert regret.n_params_best == pytest.approx(float(n))
        assert regret.extra_cost == pytest.approx(float(paid / total_cost(FLOPS, n, d, 1e13)) - 1, rel=1e-6)
        assert regret.ci95 is not None
        assert regret.extra_cost in regret.ci95


class TestFamilies:
    def test_costs_are_told_in_their_own_unit_beside_the_best_single_model(self, made: Made) -> None:
        found = made.ask(flops=1e21, demand_tokens=1e12, prompt_share=0.5, prices=H100, members=2)
        family = found.family
        assert family is not None
        assert (family.unit, family.cost_unit) == ("FLOPs", "USD")
        usd = found.costs.train_usd_per_flop
        assert usd is not None
        assert sum(member.train_cost for member in family.members) == pytest.approx(1e21 * usd)
        assert family.alone_loss == found.training_optimal.loss < family.weighted_loss
        assert "best single model" in describe_recommendation(found)

    def test_a_unit_of_cost_gains_alike_at_every_size(self, made: Made) -> None:
        found = made.ask(budget=1e22, demand_tokens=1e11, members=[(7e9, 0.5), (1e9, 0.3), (3e9, 0.2)]).family
        assert found is not None
        assert [member.n_params for member in found.members] == [1e9, 3e9, 7e9]
        assert sum(member.train_cost + member.serve_cost for member in found.members) == pytest.approx(1e22)
        a, b, _, _, beta = LAW.as_vector(made.fit.params)
        assert a > 0
        gains = [
            member.demand_share * beta * b * member.n_tokens ** (-beta - 1) / (6 * member.n_params)
            for member in found.members
        ]
        assert gains == pytest.approx([gains[0]] * 3, rel=1e-4)
        mean = sum(member.demand_share * member.loss for member in found.members)
        assert found.weighted_loss == pytest.approx(mean)

    def test_moving_money_between_members_never_helps(self, made: Made) -> None:
        found = made.ask(budget=1e22, demand_tokens=1e11, members=[(7e9, 0.5), (1e9, 0.5)]).family
        assert found is not None
        params = LAW.as_vector(made.fit.params)
        sizes = np.array([member.n_params for member in found.members])
        tokens = np.array([member.n_tokens for member in found.members])
        for share in (0.98, 1.02):
            moved = tokens.copy()
            moved[0] *= share
            moved[1] += (tokens[0] - moved[0]) * sizes[0] / sizes[1]
            assert float(LAW.predict(params, sizes, moved).mean()) > found.weighted_loss

    def test_a_number_of_sizes(self, made: Made) -> None:
        answer = made.ask(budget=1e22, demand_tokens=1e11, members=3)
        assert answer.family is not None
        sizes = [member.n_params for member in answer.family.members]
        assert sizes == pytest.approx([answer.recommended.n_params * factor for factor in (0.5, 1, 2)])

    def test_a_compute_budget_is_training_alone(self, made: Made) -> None:
        found = made.ask(flops=1e22, demand_tokens=1e15, members=[(1e9, 0.5), (2e9, 0.5)]).family
        assert found is not None
        assert sum(member.train_cost for member in found.members) == pytest.approx(1e22)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"budget": 1e22, "members": [(1e9, 0.5), (2e9, 0.6)]}, "sum to 1; these sum to 1.1"),
            ({"budget": 1e22, "members": [(1e9, 0.5), (1e9, 0.5)]}, "different from each other"),
            ({"budget": 1e22, "members": 1}, "--family is 1"),
            ({"budget": 1e22, "members": []}, "names no size"),
            ({"target_loss": 2.3, "members": 2}, "--family spends a budget"),
            ({"budget": 1e21, "members": [(1e9, 0.5), (1e11, 0.5)]}, "leaves nothing of --budget"),
        ],
    )
    def test_impossible_families(self, made: Made, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            made.ask(demand_tokens=1e11, **options)


class TestLimits:
    MEMORY = Limits(
        memory_bytes=24e9, context_tokens=4096, batch_sequences=16, bytes_per_param=2, kv_bytes_per_element=2
    )

    def test_llamas_own_shapes_give_the_kv_cache(self, made: Made) -> None:
        """7B: 32 layers of 4,096, so 0.5 MB a token at 2 bytes."""
        coefficient, exponent, whose = kv_elements(made.table)
        assert "LLaMA" in whose
        assert 2 * 2 * coefficient * 6.738e9**exponent == pytest.approx(2 * 2 * 32 * 4096, rel=0.05)

    def test_the_tables_shapes_come_first(self, sweep: SyntheticSweep) -> None:
        coefficient, exponent, whose = kv_elements(load_runs(sweep.folder))
        assert "the table's" in whose
        assert coefficient * 72928**exponent == pytest.approx(3 * 32, rel=0.15)

    def test_memory_binds_and_says_what_it_costs(self, made: Made) -> None:
        found = made.ask(target_loss=2.05, demand_tokens=1e11, limits=self.MEMORY)
        limit = found.limits[0]
        assert limit.binds
        assert limit.effect is not None
        assert "less cost" in limit.effect
        assert limit.n_params is not None
        assert found.recommended.n_params == pytest.approx(limit.n_params.hi)
        coefficient, exponent, _ = kv_elements(made.table)
        kept = 2 * limit.n_params.hi + 2 * 2 * 4096 * 16 * coefficient * limit.n_params.hi**exponent
        assert kept == pytest.approx(24e9)

    def test_a_size_held_by_a_limit_shows_no_certainty(self, made: Made) -> None:
        """Far above the smallest size that reaches the loss, too: there it is searched as well."""
        found = made.ask(target_loss=2.6, demand_tokens=1e12, limits=Limits(smallest_size=5e10))
        assert found.recommended.n_params == pytest.approx(5e10)
        first = headline(found)
        assert "50B parameters (held there by --smallest-size)" in first
        assert "[50B, 50B]" not in describe_recommendation(found)
        assert "The best is sought within the limits." in describe_recommendation(found)

    def test_time_a_token_counts_the_context_where_it_is_named(self, made: Made) -> None:
        named: dict[str, Any] = {"tpot_seconds": 0.01, "bandwidth": 2e12, "bytes_per_param": 2}
        with_context = Limits(**named, context_tokens=32_768, kv_bytes_per_element=2)
        bare, context = (
            made.ask(target_loss=2.3, demand_tokens=1e12, limits=limits).limits[0]
            for limits in (Limits(**named), with_context)
        )
        assert bare.n_params is not None
        assert context.n_params is not None
        assert bare.n_params.hi == pytest.approx(1e10)
        assert "no context counted" in bare.rule
        coefficient, exponent, _ = kv_elements(made.table)
        read = 2 * context.n_params.hi + 2 * 2 * 32_768 * coefficient * context.n_params.hi**exponent
        assert read == pytest.approx(2e10)

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"flops": 1e21, "limits": Limits(largest_size=1e3)}, "below the sizes"),
            ({"flops": 1e21, "unique_tokens": 1e3}, "beyond the"),
            ({"budget": 1e10}, "no fit says anything there"),
        ],
    )
    def test_an_answer_that_is_no_model_is_refused(self, made: Made, asked: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            made.ask(**asked)

    def test_a_loose_limit_does_not_bind(self, made: Made) -> None:
        limit = made.ask(target_loss=2.4, demand_tokens=1e12, limits=Limits(largest_size=1e12)).limits[0]
        assert not limit.binds
        assert limit.effect is None

    def test_time_a_token_from_bandwidth(self, made: Made) -> None:
        limits = Limits(tpot_seconds=0.001, bandwidth=3.35e12, bytes_per_param=2)
        found = made.ask(target_loss=2.2, demand_tokens=1e11, limits=limits)
        assert found.recommended.n_params <= 0.001 * 3.35e12 / 2 * (1 + 1e-9)

    def test_time_a_token_as_measured(self, sweep: SyntheticSweep) -> None:
        """32 times 1e-5 s + 6e-10 N at batch 1 (`synthetic.DECODE_SECONDS`, which 32 sequences share)."""
        table = load_runs(sweep.folder)
        found = recommend(
            table, target_loss=2.75, demand_tokens=1e7, limits=Limits(tpot_seconds=32 * 4.5e-5), bootstrap=0, vary=False
        )
        assert found.limits[0].n_params is not None
        assert found.limits[0].n_params.hi == pytest.approx(3.5e-5 / 6e-10, rel=0.05)
        with pytest.raises(UserError, match="--tpot-seconds 1e-06 leaves no size"):
            recommend(table, target_loss=2.75, limits=Limits(tpot_seconds=1e-6), bootstrap=0, vary=False)

    def test_scarce_tokens_are_repeated(self, made: Made) -> None:
        free, scarce = (made.ask(target_loss=2.2, demand_tokens=1e12, unique_tokens=u) for u in (None, 5e10))
        assert scarce.limits[0].binds
        assert scarce.recommended.n_params > free.recommended.n_params
        assert scarce.recommended.cost > free.recommended.cost
        assert "Muennighoff" in scarce.limits[0].rule
        law = surface(LAW, 5e10)
        best = scarce.recommended
        predicted = law.predict(LAW.as_vector(made.fit.params), best.n_params, best.n_tokens, 5e10)
        assert float(predicted) == pytest.approx(2.2)
        assert any("times over" in warning for warning in scarce.warnings)

    @pytest.mark.parametrize(
        ("limits", "options", "message"),
        [
            (Limits(largest_size=1e6), {}, "within --largest-size"),
            (MEMORY, {"limits_too": 1e11}, "--memory-bytes .* allows at most .* --smallest-size"),
            (Limits(), {"unique_tokens": 1e6}, "within --unique-tokens"),
        ],
    )
    def test_limits_that_leave_nothing_are_named(
        self, made: Made, limits: Limits, options: dict[str, float], message: str
    ) -> None:
        if "limits_too" in options:
            limits = Limits(**{**vars(limits), "smallest_size": options.pop("limits_too")})
        with pytest.raises(UserError, match=message):
            made.ask(target_loss=2.1, demand_tokens=1e12, limits=limits, **options)

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({"memory_bytes": -1.0}, "--memory-bytes is -1"),
            ({"memory_bytes": 1e9}, "--memory-bytes needs --context-tokens"),
            ({"bandwidth": 1e12}, "--bandwidth needs --tpot-seconds"),
            ({"largest_size": 1e8, "smallest_size": 1e9}, "--smallest-size 1.0B is above"),
            ({"kv_head_share": 2.0}, "--kv-head-share is 2"),
        ],
    )
    def test_impossible_limits(self, limits: dict[str, float], message: str) -> None:
        with pytest.raises(UserError, match=message):
            Limits(**limits)  # type: ignore[arg-type]

    def test_tpot_needs_something_to_go_by(self, made: Made) -> None:
        with pytest.raises(UserError, match="--tpot-seconds needs decoding measured"):
            made.ask(target_loss=2.2, limits=Limits(tpot_seconds=0.01))


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, r"--compute \(or --target-flops\), --target-loss or --budget; none"),
            ({"flops": 1e21, "target_loss": 2.0}, "--compute and --target-loss were given"),
            ({"flops": 0.0}, r"--compute \(or --target-flops\) is 0"),
            ({"flops": float("inf")}, r"--compute \(or --target-flops\) is inf"),
            ({"flops": 1e60}, "--compute 1e\\+60 asks for .* no fit says anything there"),
            ({"flops": 1e21, "demand_tokens": 1e35}, "--compute 1e\\+21 with --demand 1e\\+35 asks"),
            ({"flops": 1.0}, "--compute 1 asks for .* below"),
            ({"budget": -5.0}, "--budget is -5"),
            ({"target_loss": float("nan")}, "--target-loss is nan"),
            (
                {"target_loss": 1.5},
                r"out of reach: the law's limit at infinite size and data is 1\.\d+ \(1\.\d+ to 1\.\d+\)",
            ),
            ({"target_loss": 9.0}, "--target-loss 9 is above every measured loss"),
            ({"target_loss": 2.2, "demand_tokens": 0.0}, "--demand is 0"),
            ({"target_loss": 2.2, "demand_tokens": -1.0}, "--demand is -1"),
            ({"target_loss": 2.2, "demand_tokens": float("inf")}, "--demand is inf"),
            ({"target_loss": 2.2, "demand_tokens": 1e12, "prompt_share": 1.5}, "--prompt-share is 1.5"),
            ({"target_loss": 2.2, "prompt_share": 0.5}, "name --demand too"),
            ({"target_loss": 2.2, "unique_tokens": 0.0}, "--unique-tokens is 0"),
            ({"target_loss": 2.2, "sizes": (0.0,)}, "--size is 0"),
            (
                {"target_loss": 2.2, "demand_tokens": 1e12, "costs": "measured"},
                "has measured inference cost of 0 sizes",
            ),
            ({"budget": 1e9, "demand_tokens": 1e12}, "is spent on serving"),
        ],
    )
    def test_one_message_that_names_the_option(self, made: Made, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            made.ask(**options)


class TestTheSearches:
    @settings(max_examples=20, deadline=None)
    @given(budget=st.floats(1e15, 1e26))
    def test_least_loss_of_training_alone_is_the_closed_form(self, budget: float) -> None:
        n, d = least_loss(LAW, SARDANA, FLOPS, budget, 0.0)
        expected = LAW.compute_optimum(SARDANA, budget)
        assert float(n) == pytest.approx(float(expected[0]), rel=1e-5)
        assert float(6 * n * d) == pytest.approx(budget)

    def test_a_budget_that_serving_eats_has_no_model(self) -> None:
        dear = flops_costs(flops_rule(6.0, "6 N"))
        n, d = least_loss(LAW, SARDANA, dear, 1e10, 1e12)
        assert not np.isfinite(n)
        assert not np.isfinite(d)


KEYS = [
    "question",
    "law",
    "costs",
    "training_optimal",
    "lifetime_optimal",
    "break_even",
    "downstream",
    "uncertainty",
    "outside_fitted_range",
    "warnings",
]


class TestWhatIsPrinted:
    def test_the_document_has_the_keys_of_the_design(self, made: Made) -> None:
        found = made.ask(target_loss=2.2, demand_tokens=1e12, prompt_share=0.5, prices=H100, vary=True)
        document = json.loads(json.dumps(recommend_json(found), allow_nan=False))
        assert list(document) == KEYS
        assert {"source", "train_usd_per_flop", "serve_usd_per_token", "fit_error"} <= set(document["costs"])
        assert document["costs"]["train_usd_per_flop"] == pytest.approx(2.5 / 3600 / 989e12 / 0.4)
        for optimum in (document["training_optimal"], document["lifetime_optimal"]):
            assert {"n_params", "tokens", "loss", "cost", "ci95"} <= set(optimum)
            assert set(optimum["ci95"]) == {"n_params", "tokens", "loss", "cost"}
        assert len(document["lifetime_optimal"]["within_1pct"]) == 2
        assert len(document["lifetime_optimal"]["regret"]) == 3
        assert {"sampling", "seed", "objective", "outliers", "law", "counting"} <= set(document["uncertainty"])
        assert document["uncertainty"]["sampling"] > 0
        assert document["law"]["law"] == "chinchilla"

    def test_without_demand_or_draws_the_same_keys_hold_nulls(self, made: Made) -> None:
        found = recommend(made.table, flops=1e21, bootstrap=0, vary=False)
        document = json.loads(json.dumps(recommend_json(found), allow_nan=False))
        assert list(document) == KEYS
        assert document["lifetime_optimal"] is None
        assert document["training_optimal"]["ci95"] is None
        assert set(document["uncertainty"].values()) == {None}

    def test_the_answer_comes_first_in_words(self, made: Made) -> None:
        found = made.ask(target_loss=2.2, demand_tokens=1e12)
        text = describe_recommendation(found)
        first = text.splitlines()[0]
        assert first == headline(found)
        assert first.startswith("For a loss of 2.2 and 1.0T tokens to serve, train ")
        assert "less than the model that is cheapest to train" in first
        assert "nan" not in text.lower()

    def test_a_budget_in_dollars_reads_as_dollars(self, made: Made) -> None:
        found = made.ask(budget=250_000, demand_tokens=1e11, prompt_share=0.5, prices=H100, members=2)
        text = describe_recommendation(found)
        assert text.startswith("With $250,000 for training and serving and 100B tokens to serve, train ")
        assert "A family under $250,000" in text

    def test_beyond_the_runs_is_said(self, made: Made) -> None:
        found = made.ask(flops=1e25)
        assert found.outside_fitted_range
        assert "(extrapolated)" in headline(found)
        best = found.training_optimal
        assert best.ci95 is not None
        assert found.loss_forecast.hi - found.loss_forecast.lo > best.ci95["loss"].hi - best.ci95["loss"].lo


class TestAnyTable:
    """Whatever the runs, the answer is finite numbers and nulls, or one message."""

    @settings(max_examples=8, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        runs=st.integers(6, 40),
        noise=st.sampled_from([0.0, 0.003, 0.1, 1.0]),
        question=st.sampled_from([{"flops": 1e21}, {"budget": 1e22}, {"target_loss": 2.5}]),
        demand=st.sampled_from([None, 1e6, 1e12, 1e18]),
        unique=st.sampled_from([None, 1e10]),
    )
    def test_no_traceback_and_no_nan(
        self,
        seed: int,
        runs: int,
        noise: float,
        question: dict[str, float],
        demand: float | None,
        unique: float | None,
    ) -> None:
        rng = np.random.default_rng(seed)
        n_params, n_tokens = spread_design(runs, rng)
        loss = predict(TRUTH, n_params, n_tokens) * np.exp(noise * rng.standard_normal(runs))
        table = make_table(n_params, n_tokens, loss, groups=[f"g{i % 9}" for i in range(runs)] if seed % 2 else None)
        try:
            found = recommend(
                table,
                **question,  # type: ignore[arg-type]
                demand_tokens=demand,
                unique_tokens=unique,
                members=None if "target_loss" in question else 2,
                bootstrap=10,
            )
        except UserError:
            return
        json.dumps(recommend_json(found), allow_nan=False)
        assert np.isfinite([found.recommended.n_params, found.recommended.n_tokens, found.recommended.loss]).all()
        assert "nan" not in describe_recommendation(found).lower()

    def test_limits_and_sizes_in_another_count(self, sweep: SyntheticSweep) -> None:
        """A limit is named in all parameters, the answer in what the fit counts."""
        table = load_runs(sweep.folder)
        found = recommend(
            table,
            target_loss=2.75,
            demand_tokens=1e7,
            counting="n_params_matmul",
            limits=Limits(largest_size=45_000),
            bootstrap=0,
            vary=False,
        )
        assert found.limits[0].binds
        allowed = float(convert(table, 45_000, "n_params", "n_params_matmul").value)
        assert found.recommended.n_params == pytest.approx(allowed)
        assert allowed < 40_000


class TestPublishedRuns:
    def test_sardana(self, published_runs: Path) -> None:
        table = load_runs(published_runs / "sardana2024.csv")
        found = recommend(table, flops=1e22, demand_tokens=2e12, bootstrap=200)
        own = found.lifetime_optimal
        assert own is not None
        assert own.n_params < found.training_optimal.n_params / 2
        assert found.uncertainty is not None
        assert found.uncertainty.joint is not None
        # The runs prefer another law by far: the choices together are about that one.
        assert found.uncertainty.preferred is not None
        assert found.uncertainty.preferred.choice == "skaling"
        assert found.uncertainty.preferred.n_params is not None
        assert found.uncertainty.preferred.n_params in found.uncertainty.joint["n_params"]

    def test_gadre(self, published_runs: Path) -> None:
        table = load_runs(
            published_runs / "gadre2024.csv",
            columns={"loss": "loss_c4_val", "n_params_non_embedding": "n_params_no_embed"},
            where=["dataset=c4_original"],
        )
        found = recommend(table, flops=1e21, demand_tokens=1e12, bootstrap=100)
        assert found.uncertainty is not None
        assert next(part for part in found.uncertainty.contributions if part.factor == "counting").sd_log_n is not None
        assert found.recommended.n_params > 0


def test_the_package_hands_out_the_function() -> None:
    """A module of the same name would stand in its way once it is imported."""
    import analysis

    assert analysis.recommend is recommend


class TestDownstream:
    CURVE = (0.86, 2.2, 0.75)

    def runs(self, made: Made) -> RunTable:
        """Gadre et al.'s curve of the error on the runs' own losses, and noise."""
        epsilon, k, gamma = self.CURVE
        loss = made.table.frame["loss"].to_numpy()
        noise = 0.002 * np.random.default_rng(3).standard_normal(len(loss))
        return replace(
            made.table, frame=made.table.frame.assign(task_error=epsilon - k * np.exp(-gamma * loss) + noise)
        )

    def test_the_recommended_model_has_its_error_with_an_interval(self, made: Made) -> None:
        found = recommend(self.runs(made), flops=1e21, fit=made.fit, extrapolation=made.extrapolation, vary=False)
        [task] = found.tasks
        epsilon, k, gamma = self.CURVE
        assert task.target == "task_error"
        assert task.value == pytest.approx(epsilon - k * np.exp(-gamma * found.recommended.loss), abs=0.004)
        assert task.ci95 is not None
        assert task.value is not None
        assert task.value in task.ci95
        [document] = recommend_json(found)["downstream"]
        assert document["value"] == task.value
        assert "its task_error should be" in describe_recommendation(found)

    def test_a_loss_that_the_curve_never_saw_is_flagged(self, made: Made) -> None:
        asked: dict[str, Any] = {"fit": made.fit, "extrapolation": made.extrapolation, "vary": False}
        near, far = (recommend(self.runs(made), flops=flops, **asked) for flops in (1e20, 1e25))
        assert near.tasks[0].outside is None
        assert far.tasks[0].outside is not None
        assert "extrapolated: a loss of" in describe_recommendation(far)

    def test_a_curve_that_cannot_be_fitted_says_why(self, made: Made) -> None:
        flat = replace(made.table, frame=made.table.frame.assign(task_error=0.5))
        found = recommend(flat, flops=1e21, fit=made.fit, extrapolation=made.extrapolation, vary=False)
        assert found.tasks[0].value is None
        assert "No forecast of task_error" in describe_recommendation(found)


def test_repetition_is_not_counted_twice(made: Made) -> None:
    repeating = replace(made.table, frame=made.table.frame.assign(unique_tokens=made.table.frame["n_tokens"] / 4))
    with pytest.raises(UserError, match="--law data_constrained"):
        recommend(repeating, flops=1e21, unique_tokens=1e10, fit=made.fit, vary=False)


def test_a_multiplier_on_serving_needs_a_demand(made: Made) -> None:
    with pytest.raises(UserError, match="--quantisation multiplies what serving costs: name --demand too"):
        made.ask(flops=1e21, prices=Prices(quantisation=0.5))
