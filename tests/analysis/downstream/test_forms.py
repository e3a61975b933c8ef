"""Downstream error and accuracy from loss: derivatives, recovery, intervals, published runs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.downstream.forms import FORMS, fit_downstream, get_form
from llama.errors import UserError

TRUTHS = {
    "exponential": {"epsilon": 0.85, "k": 2.2, "gamma": 0.75},
    "sigmoid": {"a": -0.6, "k": 4.0, "L0": 3.2, "b": 0.85},
}
LOSS = np.linspace(2.2, 5.5, 24)
every_form = pytest.mark.parametrize("name", FORMS)


def truth(name: str, loss: np.ndarray = LOSS) -> np.ndarray:
    form = get_form(name)
    return form.predict(form.as_vector(TRUTHS[name]), loss)


def test_the_printed_forms() -> None:
    assert truth("exponential") == pytest.approx(0.85 - 2.2 * np.exp(-0.75 * LOSS))
    assert truth("sigmoid") == pytest.approx(-0.6 / (1 + np.exp(-4 * (LOSS - 3.2))) + 0.85)


@every_form
@settings(max_examples=10, deadline=None)
@given(factor=st.floats(0.7, 1.3))
def test_the_gradient_against_differences(name: str, factor: float) -> None:
    form = get_form(name)
    params = factor * form.as_vector(TRUTHS[name])
    gradient = form.gradient(params, LOSS)
    for column in range(len(params)):
        step = np.zeros(len(params))
        step[column] = 1e-6
        slopes = (form.predict(params + step, LOSS) - form.predict(params - step, LOSS)) / 2e-6
        assert gradient[:, column] == pytest.approx(slopes, rel=1e-5, abs=1e-8)
    both = form.predict(np.stack([params, params])[:, None], LOSS)
    assert both == pytest.approx(np.stack([form.predict(params, LOSS)] * 2))


@every_form
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_solvers_derivatives_against_differences(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = get_form(name).problem(LOSS)
    theta = problem.starts(truth(name), np.ones(len(LOSS)))
    theta = np.clip(theta * rng.uniform(0.9, 1.1, theta.shape), problem.lower_P + 1e-3, problem.upper_P - 1e-3)
    q = rng.standard_normal((len(theta), len(LOSS)))
    predicted, jacobian = problem.evaluate(theta)
    curvature = problem.curvature(theta, jacobian, q)
    for column in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[column] = 1e-6
        (up, up_jacobian), (down, down_jacobian) = problem.evaluate(theta + step), problem.evaluate(theta - step)
        assert jacobian[:, column] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)
        slopes = ((up_jacobian - down_jacobian) @ q[:, :, None])[:, :, 0] / 2e-6
        assert curvature[:, column] == pytest.approx(slopes, rel=1e-4, abs=1e-7)
    for vector, values in zip(problem.to_params(theta), predicted, strict=True):
        assert get_form(name).predict(vector, LOSS) == pytest.approx(values)


@every_form
def test_a_form_returns_from_its_own_values(name: str) -> None:
    found = fit_downstream(LOSS, truth(name), form=name, bootstrap=0)
    assert found.params == pytest.approx(TRUTHS[name], rel=1e-6)
    assert found.gradient_norm < 1e-5
    assert found.ci95 is None
    with pytest.raises(UserError, match="bootstrap 0"):
        found.interval(3.0)


@every_form
def test_intervals_hold_the_curve(name: str) -> None:
    """At a loss inside the runs, 95 % intervals of 40 noisy tables miss the truth about as often as they say."""
    at, hits = np.array([2.5, 3.0, 4.0]), np.zeros(3)
    for seed in range(40):
        noise = 0.01 * np.random.default_rng(seed).standard_normal(len(LOSS))
        found = fit_downstream(LOSS, truth(name) + noise, form=name, bootstrap=200, seed=seed)
        low, high = found.interval(at)
        hits += (low <= truth(name, at)) & (truth(name, at) <= high)
    assert (hits >= 32).all()


def test_a_seed_decides_the_interval() -> None:
    target = truth("exponential") + 0.01 * np.random.default_rng(0).standard_normal(len(LOSS))
    first, again, other = (fit_downstream(LOSS, target, bootstrap=50, seed=seed).ci95 for seed in (0, 0, 1))
    assert first == again != other


@every_form
def test_the_fit_is_scipys(name: str) -> None:
    """The same optimum as a general least squares finds from the truth."""
    from scipy.optimize import curve_fit

    form = get_form(name)
    target = truth(name) + 0.005 * np.random.default_rng(5).standard_normal(len(LOSS))
    expected, _ = curve_fit(lambda x, *p: form.predict(np.array(p), x), LOSS, target, p0=form.as_vector(TRUTHS[name]))
    found = fit_downstream(LOSS, target, form=name, bootstrap=0)
    assert form.as_vector(found.params) == pytest.approx(expected, rel=1e-3)


class TestRefusals:
    def test_flat_at_chance(self) -> None:
        target = 0.75 + 0.01 * np.random.default_rng(2).standard_normal(len(LOSS))
        with pytest.raises(UserError, match="too little of a trend"):
            fit_downstream(LOSS, target)
        with pytest.raises(UserError, match="too little of a trend"):
            fit_downstream(LOSS, np.full(len(LOSS), 0.5))

    def test_an_accuracy_taken_for_an_error(self) -> None:
        with pytest.raises(UserError, match="check that the column holds an error"):
            fit_downstream(LOSS, 1 - truth("exponential"))
        with pytest.raises(UserError, match="check that the column holds an accuracy"):
            fit_downstream(LOSS, truth("exponential"), form="sigmoid")

    def test_a_straight_line_does_not_say_where_it_ends(self) -> None:
        assert "bound of epsilon" in fit_downstream(LOSS, 0.1 * LOSS, bootstrap=0).warnings[0]

    @every_form
    def test_losses_too_close_to_bend_between(self, name: str) -> None:
        loss = np.linspace(3.6, 3.62, 24)
        with pytest.raises(UserError, match=f"don't determine the form {name}"):
            fit_downstream(loss, truth(name, loss), form=name)

    def test_few_runs(self) -> None:
        with pytest.raises(UserError, match="needs at least 5"):
            fit_downstream(LOSS[:4], truth("exponential")[:4])
        with pytest.raises(UserError, match="1 different losses"):
            fit_downstream(np.full(9, 3.0), np.linspace(0.1, 0.9, 9))
        assert fit_downstream(LOSS[::5], truth("exponential")[::5], bootstrap=0).n_runs == 5

    def test_values_out_of_range(self) -> None:
        with pytest.raises(UserError, match="divide per cent by 100"):
            fit_downstream(LOSS, 100 * truth("exponential"))
        with pytest.raises(UserError, match="must be a share"):
            fit_downstream(LOSS, np.where(LOSS > 5, np.nan, truth("exponential")))
        with pytest.raises(UserError, match="loss is missing"):
            fit_downstream(np.where(LOSS > 5, np.nan, LOSS), truth("exponential"))
        with pytest.raises(UserError, match="each run needs one of each"):
            fit_downstream(LOSS, truth("exponential")[:-1])
        with pytest.raises(UserError, match="there are exponential, sigmoid"):
            fit_downstream(LOSS, truth("exponential"), form="linear")
        with pytest.raises(UserError, match="bootstrap is -1"):
            fit_downstream(LOSS, truth("exponential"), bootstrap=-1)

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10_000), form=st.sampled_from(sorted(FORMS)), runs=st.integers(1, 12))
    def test_random_tables_end_in_a_message_or_in_numbers(self, seed: int, form: str, runs: int) -> None:
        rng = np.random.default_rng(seed)
        loss, target = (
            rng.choice([1.0, 2.0, 2.5, 3.0, 4.0, 7.0, 1e4], runs),
            rng.choice([0.0, 0.3, 0.5, 0.9, 1.0], runs),
        )
        try:
            found = fit_downstream(np.sort(loss), np.sort(target), form=form, bootstrap=20)
        except UserError:
            return
        assert np.isfinite(list(found.params.values())).all()
        assert np.isfinite(found.interval(3.0)).all()


def test_intervals_of_few_runs_hold_the_curve_as_often_as_they_say() -> None:
    """14 runs, 3 parameters: percentiles of a plain bootstrap hold it 89.6 % of the time here."""
    loss, at = np.linspace(2.2, 4.5, 14), np.array([2.0, 2.4, 3.0])
    held = []
    for seed in range(80):
        noise = 0.01 * np.random.default_rng(seed).standard_normal(len(loss))
        low, high = fit_downstream(loss, truth("exponential", loss) + noise, bootstrap=200, seed=seed).interval(at)
        held.append((low <= truth("exponential", at)) & (truth("exponential", at) <= high))
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


class TestGadre:
    @pytest.mark.parametrize("dataset", ["c4_original", "rpj", "rw_original"])
    def test_the_largest_models_error_from_the_smaller(self, published_runs: Path, dataset: str) -> None:
        """Average top-1 error over 17 tasks of the models above 1B, from those below, whose loss reaches down to 2.8."""
        runs = pd.read_csv(published_runs / "gadre2024.csv")
        runs = runs[runs["dataset"] == dataset]
        large = runs["n_params"] > 1e9
        found = fit_downstream(runs["loss_c4_val"][~large].to_numpy(), runs["err_avg_17"][~large].to_numpy())
        forecast = found.predict(runs["loss_c4_val"][large].to_numpy())
        assert forecast == pytest.approx(runs["err_avg_17"][large].to_numpy(), rel=0.08)
        assert found.residual_sd < 0.015
        assert not found.warnings
        low, high = found.interval(runs["loss_c4_val"][large].to_numpy())
        assert ((low < forecast) & (forecast < high)).all()
