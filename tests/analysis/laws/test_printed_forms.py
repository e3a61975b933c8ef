"""Each law against its paper's printed form and figures, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws import get_law
from analysis.laws.repeating import with_repetition
from analysis.laws.repetition import R_D_STAR, R_N_STAR, effective_tokens, log_elasticity, tokens_for_effective
from llama.errors import UserError
from tests.analysis.laws.examples import KAPLAN, MUENNIGHOFF, TRUTHS, law_and_truth, make_runs
from tests.analysis.tables import BESIROGLU

SARDANA = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.336, "beta": 0.283}
N, D = np.array([1e8, 3e9, 7e10]), np.array([2e10, 5e10, 1.4e12])


class TestChinchilla:
    def test_sardanas_loss(self) -> None:
        law, params = law_and_truth("chinchilla", SARDANA)
        assert float(law.predict(params, 70e9, 1e12)) == pytest.approx(1.94727, abs=5e-6)

    def test_sardanas_training_only_pair(self) -> None:
        law, params = law_and_truth("chinchilla", SARDANA)
        n_params, n_tokens = law.compute_optimum(params, 6 * 3.40812e10 * 1.81029e12)
        assert float(n_params) == pytest.approx(3.40812e10, rel=1e-5)
        assert float(n_tokens) == pytest.approx(1.81029e12, rel=1e-5)
        assert float(law.predict(params, n_params, n_tokens)) == pytest.approx(1.947, abs=1e-6)


class TestOvertraining:
    TRUTH = TRUTHS["overtraining"][0]

    def test_the_printed_form(self) -> None:
        law, params = law_and_truth("overtraining", self.TRUTH)
        e, a, b, eta = params
        multiplier, flops = D / N, 6 * N * D
        assert law.predict(params, N, D) == pytest.approx(
            e + (a * multiplier**eta + b * multiplier**-eta) * flops**-eta, rel=1e-13
        )

    def test_the_chinchilla_law_that_it_is(self) -> None:
        law, params = law_and_truth("overtraining", self.TRUTH)
        e, a, b, eta = params
        twin = {"A": a * 6**-eta, "B": b * 6**-eta, "E": e, "alpha": 2 * eta, "beta": 2 * eta}
        other, same = law_and_truth("chinchilla", twin)
        assert law.predict(params, N, D) == pytest.approx(other.predict(same, N, D), rel=1e-13)
        assert np.ravel(law.compute_optimum(params, 1e22)) == pytest.approx(np.ravel(other.compute_optimum(same, 1e22)))

    def test_one_ratio_is_refused(self) -> None:
        with pytest.raises(UserError, match="tokens a parameter"):
            get_law("overtraining").check(N, 20 * N)
        get_law("overtraining").check(np.array([1e7, 1e7, 1e8]), np.array([2e8, 3.2e9, 2e9]))


class TestSkaling:
    def test_a_power_of_one_is_chinchillas_law(self) -> None:
        law, params = law_and_truth("skaling", {**BESIROGLU, "k": 1.0})
        other, same = law_and_truth("chinchilla", BESIROGLU)
        assert law.predict(params, N, D) == pytest.approx(other.predict(same, N, D), rel=1e-13)

    @pytest.mark.parametrize("k", [0.5, 2.0])
    def test_the_power_does_not_move_the_optimum(self, k: float) -> None:
        law, params = law_and_truth("skaling", {**BESIROGLU, "k": k})
        other, same = law_and_truth("chinchilla", BESIROGLU)
        assert float(law.compute_optimum(params, 1e22)[0]) == pytest.approx(float(other.compute_optimum(same, 1e22)[0]))


class TestKaplan:
    def test_the_printed_form(self) -> None:
        law, params = law_and_truth("kaplan", KAPLAN)
        n_c, d_c, alpha_n, alpha_d = params
        expected = ((n_c / N) ** (alpha_n / alpha_d) + d_c / D) ** alpha_d
        assert law.predict(params, N, D) == pytest.approx(expected, rel=1e-12)
        assert law.counting == "n_params_non_embedding"

    def test_endless_data_leave_the_law_of_size(self) -> None:
        law, params = law_and_truth("kaplan", KAPLAN)
        assert float(law.predict(params, 1e9, np.inf)) == pytest.approx((6.4e13 / 1e9) ** 0.076)
        assert float(law.predict(params, np.inf, 1e10)) == pytest.approx((1.8e13 / 1e10) ** 0.103)


class TestDataConstrained:
    def test_muennighoffs_loss(self) -> None:
        law, params = law_and_truth("data_constrained", MUENNIGHOFF)
        assert float(law.predict(params, 6.34e9, 242e9, 25e9)) == pytest.approx(2.2256440889984477, rel=1e-12)

    def test_the_constants_of_repetition_are_the_laws(self) -> None:
        assert (MUENNIGHOFF["R_D_star"], MUENNIGHOFF["R_N_star"]) == (R_D_STAR, R_N_STAR)

    def test_endless_unique_tokens_are_chinchillas_law(self) -> None:
        law, params = law_and_truth("data_constrained", MUENNIGHOFF)
        twin = {name: MUENNIGHOFF[name] for name in ("A", "B", "E", "alpha")} | {"beta": MUENNIGHOFF["alpha"]}
        other, same = law_and_truth("chinchilla", twin)
        assert law.predict(params, N, D) == pytest.approx(other.predict(same, N, D), rel=1e-13)
        assert law.predict(params, N, D, np.full(3, 1e30)) == pytest.approx(other.predict(same, N, D), rel=1e-9)

    def test_repetition_moves_the_optimum_to_fewer_tokens(self) -> None:
        law, params = law_and_truth("data_constrained", MUENNIGHOFF)
        free, bound = law.compute_optimum(params, 1e23), law.compute_optimum(params, 1e23, unique_tokens=25e9)
        assert float(law.predict(params, *bound, 25e9)) < float(law.predict(params, *free, 25e9))
        assert float(law.predict(params, *bound, 25e9)) > float(law.predict(params, *free))

    def test_a_loss_beyond_all_repetition(self) -> None:
        law, params = law_and_truth("data_constrained", MUENNIGHOFF)
        unique = 1e9
        best = float(law.predict(params, 1e30, 1e30, unique))
        assert np.isfinite(law.smallest_size(params, best + 1e-4, unique))
        assert np.isinf(law.smallest_size(params, best - 1e-4, unique))
        assert np.isinf(law.tokens_for_loss(params, 1e9, best - 1e-4, unique))
        assert np.isfinite(law.smallest_size(params, best - 1e-4))

    def test_runs_that_do_not_repeat_are_refused(self) -> None:
        law, (n_params, n_tokens, unique) = get_law("data_constrained"), make_runs(20, np.random.default_rng(0))
        law.check(n_params, n_tokens, unique)
        with pytest.raises(UserError, match=r"0 of 20 runs repeat their data.*4 or more epochs"):
            law.check(n_params, n_tokens, n_tokens)
        with pytest.raises(UserError, match="add a column unique_tokens"):
            law.check(n_params, n_tokens)
        with pytest.raises(UserError, match="some runs have none"):
            law.check(n_params, n_tokens, np.where(np.arange(20) == 3, np.nan, unique))
        with pytest.raises(UserError, match="unique_tokens"):
            law.problem(n_params, n_tokens, np.ones(20))


class TestRepetition:
    @settings(max_examples=30, deadline=None)
    @given(epochs=st.floats(0.01, 100), r_star=st.floats(0.5, 100))
    def test_effective_tokens_and_back(self, epochs: float, r_star: float) -> None:
        unique = 3e9
        effective = effective_tokens(epochs * unique, unique, r_star)
        assert 0 < effective <= min(epochs * unique, unique * (1 + r_star)) * (1 + 1e-12)
        if epochs < 5 * r_star:
            assert tokens_for_effective(effective, unique, r_star) == pytest.approx(epochs * unique, rel=1e-8)
        step = 1e-6
        up, down = (effective_tokens(epochs * unique * np.exp(x), unique, r_star) for x in (step, -step))
        if abs(epochs - 1) > 1e-4:
            slope = float(np.exp(log_elasticity(epochs * unique, unique, r_star)))
            assert slope == pytest.approx(float(np.log(up / down)) / (2 * step), rel=1e-3, abs=1e-6)

    def test_what_the_authors_say_of_epochs(self) -> None:
        """Four epochs are nearly as good as fresh data, forty give nearly all that there is."""
        assert float(effective_tokens(4.0, 1.0)) > 0.9 * 4
        assert float(effective_tokens(41.0, 1.0)) > 0.9 * (1 + R_D_STAR)

    def test_borders(self) -> None:
        assert float(effective_tokens(5e9, np.inf)) == 5e9
        assert float(effective_tokens(5e9, 5e9)) == 5e9
        assert float(tokens_for_effective(5e9, np.inf)) == 5e9
        assert np.isinf(tokens_for_effective(1 + R_D_STAR, 1.0))
        assert np.isinf(tokens_for_effective(np.inf, 1.0))
        assert np.isinf(tokens_for_effective(np.inf, np.inf))

    def test_any_law_at_its_effective_tokens(self) -> None:
        law, params = law_and_truth("chinchilla", BESIROGLU)
        repeating = with_repetition(law)
        expected = law.predict(params, N, effective_tokens(D, 1e10))
        assert repeating.predict(params, N, D, 1e10) == pytest.approx(expected, rel=1e-13)
        assert law.predict(params, N, D, 1e10) == pytest.approx(law.predict(params, N, D))
        assert "Muennighoff" in repeating.source
        assert repeating.form.startswith("L = E + A N^-alpha + B D^-beta at D' for D")
        constrained = get_law("data_constrained")
        assert with_repetition(constrained) is constrained
