"""What a run more is said to narrow is what the information of the larger design says, and what refits show."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from analysis.decisions.costs import flops_rule
from analysis.fitting.information import (
    information,
    optimum_quantities,
    relative_gradient,
    relative_jacobian,
)
from analysis.fitting.objective import Objective
from analysis.fitting.run_noise import Cell, DesignRuns, RunNoise, covariance_within, misfit_covariance
from analysis.fitting.solver import minimise
from analysis.laws import get_law
from analysis.laws.published import BESIROGLU
from analysis.next.best_sets import best_for_cost, best_within
from analysis.next.narrowing import PRIOR_SD, Goal, Narrowing
from analysis.results import Array

LAW = get_law("chinchilla")
TRUTH = LAW.as_vector(BESIROGLU)
OPTIMUM = optimum_quantities(LAW, flops_rule(6.0, "6 N"), flops=1e22)
MADE = DesignRuns.of_cells([Cell(n, n * r) for n in np.geomspace(5e7, 8e8, 4) for r in (8.0, 30.0, 120.0)])


def candidates() -> DesignRuns:
    """At made sizes, off the same trunks, and beyond them."""
    return DesignRuns.of_cells([Cell(n, n * r) for n in (5e7, 8e8, 2e9) for r in (4.0, 60.0, 400.0)])


def narrowing(noise: RunNoise, params_KP: Array = TRUTH[None]) -> Narrowing:
    return Narrowing(law=LAW, params_KP=params_KP, made=MADE, candidates=candidates(), noise=noise)


def goal(params_KP: Array = TRUTH[None]) -> Goal:
    return Goal(gradient_KP=relative_gradient(OPTIMUM, params_KP)["n_params"])


NOISES = [
    RunNoise(sd=0.004),
    RunNoise(sd=0.004, trunk_share=0.8),
    RunNoise(sd=0.004, misfit_sd=0.006, misfit_length=1.5, trunk_share=0.5),
]


def test_with_seeds_noise_alone_the_share_left_is_that_of_the_larger_designs_information(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fit's weights are then the best ones, once nothing is known beforehand."""
    monkeypatch.setattr("analysis.next.narrowing.PRIOR_SD", 1e5)
    noise = RunNoise(sd=0.004)
    offer = narrowing(noise)
    for chosen in ([0], [4, 8], list(range(9))):
        rows = np.array(chosen, dtype=np.intp)
        before, after = (
            information(LAW, TRUTH, runs, noise).sd(goal().gradient_KP[0])
            for runs in (MADE, MADE + offer.candidates.take(rows))
        )
        assert offer.left(goal(), rows) == pytest.approx((after / before) ** 2, rel=1e-3)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("asked", ["n_params", "loss"])
def test_the_error_is_that_of_a_least_squares_fit_of_drawn_laws_misfits_and_noise(noise: RunNoise, asked: str) -> None:
    """20,000 draws of the linear problem, fitted by least squares: errors before and after within 5 %."""
    offer, rows = narrowing(noise), np.array([4, 8], dtype=np.intp)
    place = offer.candidates.take(np.array([7], dtype=np.intp))
    jacobian_1P = relative_jacobian(LAW, TRUTH, place)
    named = Goal(gradient_KP=jacobian_1P, place=place) if asked == "loss" else goal()
    ratio = _drawn_error(offer.made + offer.candidates.take(rows), named, noise) / _drawn_error(MADE, named, noise)
    assert offer.left(named, rows) == pytest.approx(ratio, rel=0.05)


def _drawn_error(runs: DesignRuns, named: Goal, noise: RunNoise) -> float:
    rng, total = np.random.default_rng(2), np.sqrt(noise.sd**2 + noise.misfit_sd**2)
    prior = PRIOR_SD * total
    covariance = covariance_within(runs, noise)
    place = named.place
    if place is not None:
        beside = misfit_covariance(runs, place, noise)
        covariance = np.block([[covariance, beside], [beside.T, np.full((1, 1), noise.misfit_sd**2)]])
    root = np.linalg.cholesky(covariance + 1e-15 * np.eye(len(covariance)))
    off = rng.standard_normal((20_000, len(covariance))) @ root.T
    theta = prior * rng.standard_normal((20_000, len(TRUTH)))
    jacobian = relative_jacobian(LAW, TRUTH, runs)
    measured = theta @ jacobian.T + off[:, : len(runs)]
    # What is known beforehand stands as a row a parameter below the runs.
    rows = np.vstack([jacobian / total, np.eye(len(TRUTH)) / prior])
    right = np.hstack([measured / total, np.zeros_like(theta)])
    fitted = np.linalg.lstsq(rows, right.T, rcond=None)[0].T
    error = (fitted - theta) @ named.gradient_KP[0] - (off[:, -1] if place is not None else 0.0)
    return float((error**2).mean())


def test_a_crowd_of_runs_where_the_law_is_off_may_do_harm() -> None:
    """Smooth misfit, a far loss: nine runs at the small end pull the fit away from it."""
    noise = RunNoise(sd=0.001, misfit_sd=0.01, misfit_length=1.5)
    crowd = DesignRuns.of_cells([Cell(5e7 * s, 5e8 * s) for s in np.geomspace(0.8, 1.25, 9)])
    place = DesignRuns.of_cells([Cell(2e9, 8e10)])
    offer = Narrowing(law=LAW, params_KP=TRUTH[None], made=MADE, candidates=crowd, noise=noise)
    far = Goal(gradient_KP=relative_jacobian(LAW, TRUTH, place), place=place)
    assert offer.left(far, np.arange(9)) > 1.02


def test_a_loss_at_a_place_is_told_by_what_lies_near_it() -> None:
    """The law's misfit reaches some way: the run at the very place takes most of what the fit is off there."""
    noise = RunNoise(sd=0.001, misfit_sd=0.01, misfit_length=1.0)
    offer = narrowing(noise)
    place = offer.candidates.take(np.array([7], dtype=np.intp))
    n, d = float(place.n_params_n[0]), float(place.n_tokens_n[0])
    gradient = relative_gradient(lambda p: {"log_loss": np.log(LAW.predict(p, n, d))}, TRUTH[None])["log_loss"]
    shares = offer.shares(Goal(gradient_KP=gradient, place=place))
    assert int(np.argmax(shares)) == 7
    assert shares[7] > 0.5
    left = offer.left(Goal(gradient_KP=gradient, place=place), np.array([7], dtype=np.intp))
    assert left == pytest.approx(1 - shares[7], rel=1e-3)


def test_refits_scatter_as_much_less_as_was_said() -> None:
    """300 studies with the made runs and 300 with two more: the ratio of variances of ln N* within 25 %."""
    noise, chosen = RunNoise(sd=0.002), np.array([2, 8], dtype=np.intp)
    offer = narrowing(noise)
    spread = [_scatter(runs, noise) for runs in (MADE, MADE + offer.candidates.take(chosen))]
    assert offer.left(goal(), chosen) == pytest.approx((spread[1] / spread[0]) ** 2, rel=0.25)


def _scatter(runs: DesignRuns, noise: RunNoise) -> float:
    loss = LAW.predict(TRUTH, runs.n_params_n, runs.n_tokens_n)
    root = np.linalg.cholesky(covariance_within(runs, noise))
    noisy = loss * np.exp(np.random.default_rng(0).standard_normal((300, len(runs))) @ root.T)
    problem, objective = LAW.problem(runs.n_params_n, runs.n_tokens_n, loss), Objective(name="lsq_log")
    weight = np.ones((1, len(runs)))
    start = problem.starts(loss / problem.scale, weight[0])
    best = minimise(problem, objective, loss[None] / problem.scale, weight, start, objective.stages)
    theta = np.repeat(best.theta_KP[np.argmin(best.value_K)][None], 300, axis=0)
    fitted = minimise(problem, objective, noisy / problem.scale, weight, theta, objective.stages)
    return float(np.log(OPTIMUM(problem.to_params(fitted.theta_KP))["n_params"]).std())


def test_a_repeated_cell_tells_less_the_more_of_the_noise_is_the_laws_own_misfit() -> None:
    again = Narrowing(law=LAW, params_KP=TRUTH[None], made=MADE, candidates=MADE, noise=RunNoise(sd=0.005))
    misfit = Narrowing(
        law=LAW, params_KP=TRUTH[None], made=MADE, candidates=MADE, noise=RunNoise(sd=0.001, misfit_sd=0.0049)
    )
    assert misfit.shares(goal()).max() < 0.2 * again.shares(goal()).max()


def test_what_is_spent_stays_within_the_sum_and_tells_nearly_as_much_as_the_best_set_could() -> None:
    offer = narrowing(RunNoise(sd=0.004))
    cost = 6 * offer.candidates.n_params_n * offer.candidates.n_tokens_n
    for spend in (3e18, 1e20, 1e21):
        chosen = best_within(offer, goal(), cost, spend)
        assert cost[chosen].sum() <= spend
        sets = (s for k in range(1, 10) for s in combinations(range(9), k) if cost[list(s)].sum() <= spend)
        best = min(offer.left(goal(), np.array(s, dtype=np.intp)) for s in sets)
        assert 1 - offer.left(goal(), chosen) >= 0.99 * (1 - best)


def test_a_batch_begins_with_the_most_for_its_cost_and_never_repeats_a_run() -> None:
    offer = narrowing(RunNoise(sd=0.004))
    cost = 6 * offer.candidates.n_params_n * offer.candidates.n_tokens_n
    chosen = best_for_cost(offer, goal(), cost, 5)
    assert len(set(chosen.tolist())) == len(chosen) <= 5
    shares = offer.shares(goal())
    assert chosen[0] == np.argmax(np.where(shares >= 0.01, shares / cost, -1.0))


def test_shares_left_are_the_geometric_mean_over_the_resamples() -> None:
    params_KP = TRUTH * np.array([[1.0] * 5, [1, 1, 1, 1.2, 0.9]])
    noise = RunNoise(sd=0.004)
    alone = [1 - narrowing(noise, params_KP[k : k + 1]).shares(goal(params_KP[k : k + 1])) for k in range(2)]
    np.testing.assert_allclose(1 - narrowing(noise, params_KP).shares(goal(params_KP)), np.sqrt(alone[0] * alone[1]))
