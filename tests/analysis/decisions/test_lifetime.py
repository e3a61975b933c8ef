"""Lifetime cost against the closed forms and figures of Sardana et al. 2024, section 3."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.decisions.costs import flops_costs, flops_rule
from analysis.decisions.lifetime import break_even_demand, k_curve, lifetime
from analysis.decisions.search import cheapest, surface, total_cost
from analysis.fitting.fit import fit
from analysis.laws import get_law, law_names
from analysis.laws.chinchilla import Chinchilla
from analysis.results import Costs, Fit, Interval, Lifetime, TokenCost
from analysis.runs.load import load_runs
from llama.errors import UserError
from tests.analysis.synthetic import SyntheticSweep
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design

LAW = Chinchilla()
SARDANA = LAW.as_vector({"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283})
FLOPS = flops_costs(flops_rule(6.0, "6 N"))
#: Of every law, near what was published for it or fitted to published runs.
PARAMS = {
    "chinchilla": SARDANA,
    "overtraining": get_law("overtraining").as_vector({"E": 1.5, "a": 141.0, "b": 190.0, "eta": 0.121}),
    "data_constrained": get_law("data_constrained").as_vector(
        {
            "A": 521.0,
            "B": 1488.0,
            "E": 1.87,
            "alpha": 0.353,
            "R_N_star": 5.309743,
            "R_D_star": 15.387756,
        }
    ),
    "skaling": get_law("skaling").as_vector(
        {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283, "k": 0.8}
    ),
    "kaplan": get_law("kaplan").as_vector({"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}),
}


def test_loss_of_70b_on_1t() -> None:
    assert float(LAW.predict(SARDANA, 70e9, 1e12)) == pytest.approx(1.94727, abs=5e-6)


def test_training_only_pair() -> None:
    n_params, n_tokens = cheapest(LAW, SARDANA, FLOPS, 1.947, 0.0)
    assert float(n_params) == pytest.approx(3.40812e10, rel=2e-6)
    assert float(n_tokens) == pytest.approx(1.81029e12, rel=3e-6)


def test_pair_at_two_trillion_tokens_served() -> None:
    n_0, d_0 = cheapest(LAW, SARDANA, FLOPS, 1.947, 0.0)
    n_params, n_tokens = cheapest(LAW, SARDANA, FLOPS, 1.947, 2e12)
    assert float(n_params) == pytest.approx(2.41836e10, rel=2e-6)
    assert float(n_tokens) == pytest.approx(2.65705e12, rel=2e-6)
    assert float(n_params / n_0) == pytest.approx(0.7096, abs=5e-5)
    assert float(n_tokens / d_0) == pytest.approx(1.4677, abs=5e-5)
    spent = total_cost(FLOPS, n_params, n_tokens, 2e12) / total_cost(FLOPS, n_0, d_0, 2e12)
    assert float(spent) == pytest.approx(0.9522, abs=5e-5)


@settings(max_examples=50, deadline=None)
@given(demand=st.floats(0, 1e15), loss=st.floats(1.75, 3.0))
def test_the_optimum_solves_sardanas_equation(demand: float, loss: float) -> None:
    """(alpha A N^-alpha) / (beta B D^-beta) = 1 + D_inf / (3 D), and D is a root of the paper's equation in D alone."""
    a, b, e, alpha, beta = SARDANA
    n, d = (float(x) for x in cheapest(LAW, SARDANA, FLOPS, loss, demand))
    assert alpha * a * n**-alpha / (beta * b * d**-beta) == pytest.approx(1 + demand / (3 * d), rel=1e-5)
    root = (beta * b / alpha + b) * d**-beta + demand * beta * b / (3 * alpha) * d ** (-beta - 1) + e - loss
    assert root == pytest.approx(0, abs=1e-6)


def test_the_training_optimum_is_the_compute_optimum() -> None:
    n_params, n_tokens = cheapest(LAW, SARDANA, FLOPS, 2.0, 0.0)
    again = LAW.compute_optimum(SARDANA, float(6 * n_params * n_tokens))
    assert float(again[0]) == pytest.approx(float(n_params), rel=1e-6)


def test_break_even_between_two_models() -> None:
    """D_inf = 3 (N_s D_s - N_l D_l) / (N_l - N_s)."""
    assert break_even_demand(FLOPS, (7e9, 4e12), (13e9, 1e12)) == pytest.approx(
        3 * (7e9 * 4e12 - 13e9 * 1e12) / (13e9 - 7e9)
    )
    assert break_even_demand(FLOPS, (7e9, 1e12), (13e9, 1e12)) == 0
    assert break_even_demand(FLOPS, (13e9, 4e12), (7e9, 1e12)) is None


def test_k_curve() -> None:
    curve = k_curve(0.336, 0.283)
    for k_n, overhead in ((0.75, 0.0285), (0.5, 0.208), (0.3, 1.056)):
        assert np.interp(k_n, curve.k_n_G, curve.overhead_G) == pytest.approx(overhead, rel=5e-3)
    assert curve.asymptote == pytest.approx(0.0974, abs=5e-5)
    assert np.isfinite(curve.k_d_G).all()
    assert curve.overhead_G.min() == pytest.approx(0, abs=1e-3)


def test_the_pairs_costs_come_back_to_the_digits() -> None:
    """Their closed form: 70.96 % of the parameters, 146.77 % of the tokens, 95.22 % of the FLOPs."""
    train, own = (cheapest(LAW, SARDANA, FLOPS, 1.947, demand) for demand in (0.0, 2e12))
    assert 100 * float(own[0] / train[0]) == pytest.approx(70.96, abs=0.005)
    assert 100 * float(own[1] / train[1]) == pytest.approx(146.77, abs=0.005)
    spent = total_cost(FLOPS, *own, 2e12) / total_cost(FLOPS, *train, 2e12)
    assert 100 * float(spent) == pytest.approx(95.22, abs=0.005)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(law_names()), demand=st.floats(0, 1e14), scarce=st.booleans())
def test_every_law_has_a_cheapest_model(name: str, demand: float, scarce: bool) -> None:
    """It reaches the loss, and its neighbours at that loss cost more; with unique tokens too."""
    law, unique = get_law(name), 2e11 if scarce else np.inf
    law = surface(law, unique)
    params = PARAMS[name]
    loss = max(2.4, float(law.limit(params)) + 0.45)
    n, d = (float(value) for value in cheapest(law, params, FLOPS, loss, demand, unique_tokens=unique))
    assert float(law.predict(params, n, d, unique)) == pytest.approx(loss, rel=1e-9)
    best = float(total_cost(FLOPS, n, d, demand))
    for factor in (0.9, 0.99, 1.01, 1.1):
        tokens = law.tokens_for_loss(params, n * factor, loss, unique)
        assert float(total_cost(FLOPS, n * factor, tokens, demand)) >= best * (1 - 1e-9)


def test_sizes_within_limits() -> None:
    n, _ = cheapest(LAW, SARDANA, FLOPS, 2.0, 1e12, sizes=Interval(lo=1e6, hi=1.5e10))
    free, _ = cheapest(LAW, SARDANA, FLOPS, 2.0, 1e12)
    assert float(free) == pytest.approx(float(n)) if free <= 1.5e10 else float(n) == pytest.approx(1.5e10)
    too_small, _ = cheapest(LAW, SARDANA, FLOPS, 2.0, 1e12, sizes=Interval(lo=1.0, hi=1e6))
    assert np.isinf(too_small)


def test_launch_overhead_moves_the_optimum_up() -> None:
    """Where serving a token costs t0 whatever its size, there is less to gain from being small."""

    def costs(intercept: float) -> Costs:
        kind = {"unit": "core-seconds", "exponent": 1.0, "source": "measured", "rule": "", "max_rel_error": 0.0}
        grid = {"n_params_G": np.empty(0), "measured_G": np.empty(0)}
        train = TokenCost(intercept=0.0, slope=6e-12, **kind, **grid)  # type: ignore[arg-type]
        serve = TokenCost(intercept=intercept, slope=2e-12, **kind, **grid)  # type: ignore[arg-type]
        return Costs(unit="core-seconds", source="measured", train=train, serve=serve)

    plain, same = cheapest(LAW, SARDANA, costs(0.0), 2.0, 1e13)[0], cheapest(LAW, SARDANA, FLOPS, 2.0, 1e13)[0]
    assert float(plain) == pytest.approx(float(same), rel=1e-6)
    # t0 is paid for every token alike, so the optimum stays; what changes is how much the choice matters.
    assert float(cheapest(LAW, SARDANA, costs(1.0), 2.0, 1e13)[0]) == pytest.approx(float(plain), rel=1e-3)


class TestAStudysLifetime:
    @staticmethod
    def _fit(bootstrap: int) -> Fit:
        rng = np.random.default_rng(0)
        n_params, n_tokens = spread_design(120, rng)
        truth = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283}
        loss = predict(truth, n_params, n_tokens) * np.exp(0.003 * rng.standard_normal(120))
        return fit(make_table(n_params, n_tokens, loss), bootstrap=bootstrap)

    def _make(self, bootstrap: int = 200, **options: float) -> Lifetime:
        found = self._fit(bootstrap)
        sizes = np.array([1e9, 2e9, 4e9, 8e9])
        return lifetime(found, FLOPS, **{"target_loss": 2.2, "sizes": sizes, **options})  # type: ignore[arg-type]

    def test_more_demand_means_smaller_and_longer(self) -> None:
        made = self._make()
        assert (np.diff(made.n_params.mid_G) < 0).all()
        assert (np.diff(made.n_tokens.mid_G) > 0).all()
        assert (made.n_params.lo_G <= made.n_params.mid_G).all()
        assert (made.n_params.mid_G <= made.n_params.hi_G).all()

    def test_bands_of_near_optima_hold_the_optimum_and_nest(self) -> None:
        made = self._make(bootstrap=0)
        one, five, best = made.within_1pct_G2, made.within_5pct_G2, made.n_params.mid_G
        assert (five[:, 0] < one[:, 0]).all()
        assert (one[:, 0] < best).all()
        assert (best < one[:, 1]).all()
        assert (one[:, 1] < five[:, 1]).all()

    def test_a_band_edge_costs_one_percent_more(self) -> None:
        made = self._make(bootstrap=0)
        params = LAW.as_vector(self._fit(0).params)
        for edge in made.within_1pct_G2.T:
            cost = total_cost(FLOPS, edge, LAW.tokens_for_loss(params, edge, 2.2), made.demand_tokens_G)
            assert cost == pytest.approx(1.01 * made.cost.mid_G, rel=1e-6)

    def test_without_draws_there_is_no_band(self) -> None:
        made = self._make(bootstrap=0)
        assert np.isnan(made.n_params.lo_G).all()
        assert made.training_optimal.ci95 is None

    def test_break_evens_rise_with_shrinking(self) -> None:
        made = self._make()
        demands = [pair.demand_tokens for pair in made.break_even]
        assert [(pair.small, pair.large) for pair in made.break_even] == [(1e9, 2e9), (2e9, 4e9), (4e9, 8e9)]
        assert demands[0] is not None
        assert demands[1] is not None
        assert demands[0] > demands[1] >= 0
        for pair in made.break_even:
            assert pair.ci95 is not None
            assert pair.demand_tokens is not None
            assert pair.demand_tokens in pair.ci95

    def test_at_a_break_even_both_sizes_cost_the_same(self) -> None:
        made = self._make(bootstrap=0)
        small, large = made.sizes[0], made.sizes[1]
        demand = made.break_even[0].demand_tokens
        assert demand is not None
        costs = [float(total_cost(FLOPS, side.n_params, side.n_tokens, demand)) for side in (small, large)]
        assert costs[0] == pytest.approx(costs[1])

    def test_optima_outside_the_runs_are_named(self) -> None:
        made = self._make(demand_tokens=1e18, bootstrap=0)
        assert any(words.startswith("D/N") for words in made.lifetime_optimal.outside_fitted_range)
        assert made.extrapolated_G[-1]

    def test_an_unreachable_loss_is_refused(self) -> None:
        with pytest.raises(UserError, match="out of reach"):
            self._make(target_loss=1.2, bootstrap=0)

    def test_a_negative_demand_is_refused(self) -> None:
        with pytest.raises(UserError, match="demand is -1"):
            self._make(demand_tokens=-1, bootstrap=0)


class TestWhatIsNoModel:
    """Laws of odd runs put their optimum where there is no model: refused with a reason, never a zero or an infinity."""

    def test_the_cheapest_at_a_loss(self) -> None:
        # Size is worth next to nothing, so that the cheapest has a single parameter, and data are worth little.
        n_params, n_tokens = spread_design(40, np.random.default_rng(0))
        fitted = fit(make_table(n_params, n_tokens, predict(BESIROGLU, n_params, n_tokens)), bootstrap=0)
        odd = replace(fitted, params=fitted.params | {"A": 1e-300, "alpha": 2.0, "beta": 0.002})
        with pytest.raises(UserError, match=r"cheapest way to the target loss 2 .* is no model"):
            lifetime(odd, FLOPS, target_loss=2.0, sizes=np.array([1e9]))

    @pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.3), (0.3, 0.0), (0.3, np.inf)])
    def test_a_k_curve(self, alpha: float, beta: float) -> None:
        with pytest.raises(UserError, match="both must be above 0"):
            k_curve(alpha, beta)


def test_the_sweeps_sizes_get_lines(sweep: SyntheticSweep) -> None:
    found = fit(load_runs(sweep.folder), bootstrap=100)
    made = lifetime(found, FLOPS, target_loss=2.7, sizes=np.array([38520.0, 72928.0]), demand_tokens=0)
    assert [line.n_params for line in made.sizes] == [38520.0, 72928.0]
    assert made.lifetime_optimal.n_params == pytest.approx(made.training_optimal.n_params)
