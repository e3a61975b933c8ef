"""The Chinchilla law: published values, closed forms against brute force, derivatives against differences."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.laws import get_law, law_names
from analysis.laws.chinchilla import Chinchilla
from analysis.laws.power_sum import nonnegative_amplitudes
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU

LAW = Chinchilla()
EPOCH = LAW.as_vector(BESIROGLU)


@pytest.mark.parametrize(("alpha", "beta", "n_opt"), [(0.336, 0.283, 53.7e9), (0.3392, 0.2849, 51.9e9)])
def test_hoffmanns_optimum_at_1e24(alpha: float, beta: float, n_opt: float) -> None:
    params = LAW.as_vector({"A": 406.4, "B": 410.7, "E": 1.69, "alpha": alpha, "beta": beta})
    n_params, n_tokens = LAW.compute_optimum(params, 1e24)
    assert float(n_params) == pytest.approx(n_opt, rel=1e-3)
    assert float(6 * n_params * n_tokens) == pytest.approx(1e24)


def test_epochs_optimum_at_1e24() -> None:
    assert float(LAW.compute_optimum(EPOCH, 1e24)[0]) == pytest.approx(96e9, rel=0.02)


@settings(max_examples=50, deadline=None)
@given(
    alpha=st.floats(0.1, 1.0),
    beta=st.floats(0.1, 1.0),
    exponent=st.floats(0.8, 1.3),
    log_flops=st.floats(11, 26),
)
def test_the_compute_optimum_is_the_least_loss(alpha: float, beta: float, exponent: float, log_flops: float) -> None:
    params = np.array([400.0, 500.0, 1.7, alpha, beta])
    flops, slope = 10**log_flops, 5.0
    n_params, n_tokens = LAW.compute_optimum(params, flops, slope, exponent)
    best = float(LAW.predict(params, n_params, n_tokens))
    for factor in (0.9, 1.1):
        n = n_params * factor
        assert best < float(LAW.predict(params, n, flops / (slope * n**exponent)))
    n_opt, d_opt = LAW.exponents(params)
    assert float(n_opt + d_opt) == pytest.approx(1)


def test_the_exponents_are_those_of_the_optimum() -> None:
    n, d = LAW.compute_optimum(EPOCH, np.array([1e20, 1e22]))
    n_opt, d_opt = LAW.exponents(EPOCH)
    assert np.log(n[1] / n[0]) / np.log(100) == pytest.approx(float(n_opt))
    assert np.log(d[1] / d[0]) / np.log(100) == pytest.approx(float(d_opt))


def test_tokens_for_loss_undoes_predict() -> None:
    loss = LAW.predict(EPOCH, 1e9, 3e10)
    assert float(LAW.tokens_for_loss(EPOCH, 1e9, loss)) == pytest.approx(3e10)
    assert np.isinf(LAW.tokens_for_loss(EPOCH, 1e6, 2.0))
    smallest = float(LAW.smallest_size(EPOCH, 2.0))
    assert np.isinf(LAW.tokens_for_loss(EPOCH, smallest * 0.999, 2.0))
    assert np.isfinite(LAW.tokens_for_loss(EPOCH, smallest * 1.001, 2.0))
    assert np.isinf(LAW.smallest_size(EPOCH, 1.8))


def test_gradient_against_differences() -> None:
    n_params, n_tokens = np.array([1e8, 3e9]), np.array([2e10, 5e10])
    gradient = LAW.gradient(EPOCH, n_params, n_tokens)
    assert gradient.shape == (2, 5)
    for column in range(5):
        step = np.zeros(5)
        step[column] = 1e-6 * EPOCH[column]
        difference = LAW.predict(EPOCH + step, n_params, n_tokens) - LAW.predict(EPOCH - step, n_params, n_tokens)
        assert gradient[:, column] == pytest.approx(difference / (2 * step[column]), rel=1e-5)


def test_the_solvers_derivatives_against_differences() -> None:
    rng = np.random.default_rng(0)
    n_params, n_tokens = np.exp(rng.uniform(15, 20, 12)), np.exp(rng.uniform(20, 25, 12))
    problem = LAW.problem(n_params, n_tokens, LAW.predict(EPOCH, n_params, n_tokens))
    theta = np.array([[0.6, -1.2, -1.0, 0.35, 0.4]])
    q = rng.standard_normal((1, 12))
    predicted, jacobian = problem.evaluate(theta)
    curvature = problem.curvature(theta, jacobian, q)
    for column in range(5):
        step = np.zeros((1, 5))
        step[0, column] = 1e-6
        (up, up_jacobian), (down, down_jacobian) = problem.evaluate(theta + step), problem.evaluate(theta - step)
        assert jacobian[0, column] == pytest.approx((up - down)[0] / 2e-6, rel=1e-6, abs=1e-9)
        slopes = ((up_jacobian - down_jacobian) @ q[:, :, None])[0, :, 0] / 2e-6
        assert curvature[0, column] == pytest.approx(slopes, rel=1e-5, abs=1e-8)
    law_loss = LAW.predict(problem.to_params(theta)[0], n_params, n_tokens)
    assert predicted[0] * problem.scale == pytest.approx(law_loss)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_amplitudes_are_the_non_negative_least_squares(seed: int) -> None:
    from scipy.optimize import nnls

    rng = np.random.default_rng(seed)
    columns, target = rng.standard_normal((4, 3, 10)), rng.standard_normal(10)
    amplitudes, cost = nonnegative_amplitudes(columns, target)
    for k in range(4):
        expected, error = nnls(columns[k].T, target)
        assert amplitudes[k] == pytest.approx(expected, abs=1e-6)
        assert cost[k] == pytest.approx(error**2, abs=1e-6)


def test_an_unknown_law() -> None:
    with pytest.raises(UserError, match="there are chinchilla"):
        get_law("kaplan2")


def test_every_name_is_a_law_and_the_names_cost_nothing() -> None:
    """The command's help lists them: asking for it imports no numpy."""
    assert [get_law(name).name for name in law_names()] == list(law_names())
    asked = "import sys; from analysis.laws import law_names; law_names(); print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True).stdout == "False\n"
