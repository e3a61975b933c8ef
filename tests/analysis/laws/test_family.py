"""Every law: derivatives against differences, closed forms against brute force, parameters from their own predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis.fitting.objective import OBJECTIVES, Objective
from analysis.fitting.solver import Solution, minimise
from analysis.laws import get_law, law_names
from analysis.laws.base import Array, Law, Problem
from analysis.laws.repeating import with_repetition
from analysis.runs.table import COUNTING
from tests.analysis.laws.examples import CASES, IDS, Runs, law_and_truth, make_runs

every_case = pytest.mark.parametrize(("name", "truth"), CASES, ids=IDS)


def predict(law: Law, params: Array, runs: Runs) -> Array:
    return law.predict(params, runs.n_params, runs.n_tokens, runs.unique_tokens)


def solve(law: Law, runs: Runs, loss: Array, goal: Objective) -> tuple[Problem, Solution, int]:
    problem = law.problem(runs.n_params, runs.n_tokens, loss, runs.unique_tokens)
    even = np.ones(len(loss))
    starts = problem.starts(loss / problem.scale, even)
    solution = minimise(problem, goal, (loss / problem.scale)[None], even[None], starts, goal.stages)
    return problem, solution, int(np.argmin(solution.value_K))


@pytest.mark.parametrize("name", law_names())
def test_a_law_says_what_it_is(name: str) -> None:
    law = get_law(name)
    assert law.name == name
    assert law.source
    assert law.counting in COUNTING
    assert all(parameter.unit and parameter.meaning for parameter in law.parameters)


@every_case
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), repeats=st.booleans())
def test_the_gradient_against_differences(name: str, truth: dict[str, float], seed: int, repeats: bool) -> None:
    rng = np.random.default_rng(seed)
    law, params = law_and_truth(name, truth)
    params = params * rng.uniform(0.9, 1.1, len(params))
    runs = make_runs(6, rng)
    unique = runs.unique_tokens if repeats else np.inf
    gradient = law.gradient(params, runs.n_params, runs.n_tokens, unique)
    assert gradient.shape == (6, len(params))
    for column in range(len(params)):
        step = np.zeros(len(params))
        step[column] = 1e-5 * params[column]
        up = law.predict(params + step, runs.n_params, runs.n_tokens, unique)
        down = law.predict(params - step, runs.n_params, runs.n_tokens, unique)
        slopes = (up - down) / (2 * step[column])
        # A law's second derivative may jump, where N = N_opt(U): differences across it are off by half a step.
        assert gradient[:, column] == pytest.approx(slopes, rel=3e-4, abs=1e-8 / params[column])


@every_case
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_solvers_derivatives_against_differences(name: str, truth: dict[str, float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    law, params = law_and_truth(name, truth)
    runs = make_runs(40, rng)
    problem = law.problem(runs.n_params, runs.n_tokens, predict(law, params, runs), runs.unique_tokens)
    starts = problem.starts(predict(law, params, runs) / problem.scale, np.ones(40))
    theta = np.clip(starts * rng.uniform(0.9, 1.1, starts.shape), problem.lower_P + 0.01, problem.upper_P - 0.01)
    q = rng.standard_normal((len(theta), 40))
    predicted, jacobian = problem.evaluate(theta)
    curvature = problem.curvature(theta, jacobian, q)
    assert curvature == pytest.approx(curvature.transpose(0, 2, 1))
    for column in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[column] = 1e-5
        (up, up_jacobian), (down, down_jacobian) = problem.evaluate(theta + step), problem.evaluate(theta - step)
        scale = np.abs(jacobian[:, column]).max() + 1e-6
        assert jacobian[:, column] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-5 * scale)
        slopes = ((up_jacobian - down_jacobian) @ q[:, :, None])[:, :, 0] / 2e-5
        assert curvature[:, column] == pytest.approx(slopes, rel=1e-3, abs=1e-3 * np.abs(slopes).max())
    for vector, scaled in zip(problem.to_params(theta), predicted, strict=True):
        assert predict(law, vector, runs) == pytest.approx(scaled * problem.scale, rel=1e-9)


@every_case
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_law_returns_from_its_own_losses(name: str, truth: dict[str, float], objective: str) -> None:
    law, params = law_and_truth(name, truth)
    runs = make_runs(80, np.random.default_rng(1))
    problem, solution, best = solve(law, runs, predict(law, params, runs), Objective(name=objective))
    assert solution.converged_K[best]
    assert problem.to_params(solution.theta_KP)[best] == pytest.approx(params, rel=1e-4)


@every_case
@pytest.mark.parametrize("objective", ["huber_log", "lsq_log", "lsq"])
def test_noisy_losses_end_in_an_exact_optimum(name: str, truth: dict[str, float], objective: str) -> None:
    """No worse than the truth, with a gradient of nothing, and with an optimal size near the true one."""
    law, params = law_and_truth(name, truth)
    rng = np.random.default_rng(2)
    runs, goal = make_runs(150, rng), Objective(name=objective)
    true_loss = predict(law, params, runs)
    loss = true_loss * np.exp(0.004 * rng.standard_normal(150))
    problem, solution, best = solve(law, runs, loss, goal)
    residual = np.log(true_loss / loss) if goal.is_log else true_loss - loss
    assert solution.value_K[best] < goal.value(residual, np.ones(150))
    assert solution.gradient_norm_K[best] < 1e-5
    assert (np.abs(solution.value_K / solution.value_K[best] - 1) < 1e-6).sum() >= 2
    found = problem.to_params(solution.theta_KP)[best]
    flops = 6e21
    n_true, n_found = law.compute_optimum(params, flops)[0], law.compute_optimum(found, flops)[0]
    assert float(n_found / n_true) == pytest.approx(1, rel=0.25)


@every_case
@settings(max_examples=10, deadline=None)
@given(
    log_flops=st.floats(17, 25),
    exponent=st.floats(0.8, 1.3),
    epochs=st.floats(0.1, 40),
    repeats=st.booleans(),
)
def test_no_neighbour_beats_the_compute_optimum(
    name: str, truth: dict[str, float], log_flops: float, exponent: float, epochs: float, repeats: bool
) -> None:
    law, params = law_and_truth(name, truth)
    law = with_repetition(law)
    flops, slope = 10**log_flops, 5.0
    unique = law.compute_optimum(params, flops, slope, exponent)[1] / epochs if repeats else np.inf
    n_params, n_tokens = law.compute_optimum(params, flops, slope, exponent, unique_tokens=unique)
    assert float(slope * n_params**exponent * n_tokens) == pytest.approx(flops)
    best = float(law.predict(params, n_params, n_tokens, unique))
    sizes = n_params * np.array([0.2, 0.8, 0.97, 1.03, 1.25, 5.0])
    assert (best < law.predict(params, sizes, flops / (slope * sizes**exponent), unique)).all()


@every_case
def test_the_exponents_are_those_of_the_optimum(name: str, truth: dict[str, float]) -> None:
    law, params = law_and_truth(name, truth)
    n_params, n_tokens = law.compute_optimum(params, np.array([1e20, 1e22]))
    n_opt, d_opt = law.exponents(params)
    assert np.log(n_params[1] / n_params[0]) / np.log(100) == pytest.approx(float(n_opt))
    assert np.log(n_tokens[1] / n_tokens[0]) / np.log(100) == pytest.approx(float(d_opt))


@every_case
@settings(max_examples=10, deadline=None)
@given(epochs=st.floats(0.2, 20), log_size=st.floats(7, 11))
def test_tokens_for_loss_undo_predict(name: str, truth: dict[str, float], epochs: float, log_size: float) -> None:
    law, params = law_and_truth(name, truth)
    law, n_params, unique = with_repetition(law), 10**log_size, 1e10
    for limit in (np.inf, unique):
        loss = law.predict(params, n_params, epochs * unique, limit)
        assert float(law.tokens_for_loss(params, n_params, loss, limit)) == pytest.approx(epochs * unique, rel=1e-6)
        smallest = float(law.smallest_size(params, loss, limit))
        assert smallest < n_params
        assert np.isinf(law.tokens_for_loss(params, smallest * 0.999, loss, limit))
        assert np.isfinite(law.tokens_for_loss(params, smallest * 1.001, loss, limit))


@every_case
def test_the_limit_is_never_reached(name: str, truth: dict[str, float]) -> None:
    law, params = law_and_truth(name, truth)
    limit = float(law.limit(params))
    assert float(law.predict(params, 1e200, 1e200)) == pytest.approx(limit, abs=1e-3)
    assert np.isinf(law.smallest_size(params, limit))
    assert np.isinf(law.smallest_size(params, limit - 0.5))
    assert np.isinf(law.tokens_for_loss(params, 1e9, limit - 0.5))


@every_case
def test_a_law_takes_many_parameter_vectors_at_once(name: str, truth: dict[str, float]) -> None:
    law, params = law_and_truth(name, truth)
    rng = np.random.default_rng(3)
    runs, many = make_runs(4, rng), params * rng.uniform(0.95, 1.05, (3, len(params)))
    together = predict(law, many[:, None, :], runs)
    assert together == pytest.approx(np.stack([predict(law, one, runs) for one in many]))
    flops = np.array([1e20, 1e22])
    optima = law.compute_optimum(many[:, None, :], flops, unique_tokens=1e9)
    alone = [law.compute_optimum(one, flops, unique_tokens=1e9) for one in many]
    assert optima[0] == pytest.approx(np.stack([n for n, _ in alone]))
    gradient = law.gradient(many[:, None, :], *runs)
    assert gradient == pytest.approx(np.stack([law.gradient(one, *runs) for one in many]))


def test_weights_count_runs_as_copies_do() -> None:
    law, params = law_and_truth(*CASES[0])
    rng = np.random.default_rng(4)
    runs, goal = make_runs(30, rng), Objective()
    loss = predict(law, params, runs) * np.exp(0.01 * rng.standard_normal(30))
    weight = rng.integers(1, 4, 30)
    problem = law.problem(*runs[:2], loss)
    twice = Runs(*(np.repeat(column, weight) for column in runs))
    copies, solution, best = solve(law, twice, np.repeat(loss, weight), goal)
    starts = problem.starts(loss / problem.scale, weight.astype(float))
    weighted = minimise(problem, goal, (loss / problem.scale)[None], weight[None].astype(float), starts, goal.stages)
    expected = copies.to_params(solution.theta_KP)[best]
    assert problem.to_params(weighted.theta_KP)[np.argmin(weighted.value_K)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", law_names())
@pytest.mark.filterwarnings("error")
@settings(max_examples=10, deadline=None)
@example(seed=1359, spread=0.25, largest=7.0)
@given(seed=st.integers(0, 10_000), spread=st.floats(1e-6, 3), largest=st.floats(5, 12))
def test_starts_of_any_table_are_numbers(name: str, seed: int, spread: float, largest: float) -> None:
    """Sizes from 1,000 up to any, losses that follow no law, all but equal or a hundredfold apart."""
    rng, law = np.random.default_rng(seed), get_law(name)
    n_params, n_tokens = (10.0 ** rng.uniform(low, largest + low - 3, 12) for low in (3, 4))
    unique, loss = n_tokens / 10 ** rng.uniform(0.5, 2, 12), 3 * np.exp(spread * rng.standard_normal(12))
    problem = law.problem(n_params, n_tokens, loss, unique)
    starts = problem.starts(loss / problem.scale, np.ones(12))
    assert np.isfinite(starts).all()
    for theta in np.clip(starts, problem.lower_P, problem.upper_P):
        predicted = law.predict(problem.to_params(theta[None])[0], n_params, n_tokens, unique)
        assert (np.isfinite(predicted) & (predicted >= 0)).all()
