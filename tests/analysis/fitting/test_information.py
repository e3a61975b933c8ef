"""What a design is said to tell is what fits to its runs then show; closed forms and refusals."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from analysis.decisions.costs import flops_rule
from analysis.fitting.information import (
    information,
    optimum_quantities,
    predicted_optimum_interval,
    relative_gradient,
    relative_jacobian,
)
from analysis.fitting.objective import Objective
from analysis.fitting.run_noise import Cell, DesignRuns, RunNoise, by_cell, covariance_within
from analysis.fitting.solver import minimise
from analysis.laws import get_law
from analysis.laws.base import Array
from analysis.laws.published import BESIROGLU
from llama.errors import UserError

LAW = get_law("chinchilla")
TRUTH = LAW.as_vector(BESIROGLU)
SIX_ND = flops_rule(6.0, "6 N")
NOISE = RunNoise(sd=0.004)


def grid(sizes: int = 5, ratios: int = 5, count: int = 1, ratio_span: float = 30.0) -> list[Cell]:
    n = np.geomspace(5e7, 2e9, sizes)
    return [Cell(size, size * ratio, count) for size in n for ratio in np.geomspace(5, 5 * ratio_span, ratios)]


def loss_at(n_params: float, n_tokens: float, params: Array) -> dict[str, Array]:
    return {"loss": LAW.predict(params, n_params, n_tokens)}


def refits(runs: DesignRuns, noise: RunNoise, draws: int) -> Array:
    """Parameters of least-squares fits of log loss to runs drawn from the truth."""
    loss = LAW.predict(TRUTH, runs.n_params_n, runs.n_tokens_n)
    root = np.linalg.cholesky(covariance_within(runs, noise))
    noisy_Kn = loss * np.exp(np.random.default_rng(0).standard_normal((draws, len(runs))) @ root.T)
    problem = LAW.problem(runs.n_params_n, runs.n_tokens_n, loss)
    goal = Objective(name="lsq_log")
    weight = np.ones((1, len(runs)))
    start = problem.starts(loss / problem.scale, weight[0])
    best = minimise(problem, goal, loss[None] / problem.scale, weight, start, goal.stages)
    theta = np.repeat(best.theta_KP[np.argmin(best.value_K)][None], draws, axis=0)
    return problem.to_params(minimise(problem, goal, noisy_Kn / problem.scale, weight, theta, goal.stages).theta_KP)


def test_the_interval_is_as_wide_as_fits_scatter_and_holds_the_truth() -> None:
    """400 studies of 25 runs: widths within 12 %, and 95 % intervals around each fit hold the truth in 92 to 98 % of them."""
    cells, flops, draws = grid(), 1e22, 400
    foreseen = predicted_optimum_interval(BESIROGLU, cells, noise=NOISE, flops=flops)
    fitted = refits(DesignRuns.of_cells(cells), NOISE, draws)
    reached = optimum_quantities(LAW, SIX_ND, flops=flops)(fitted)
    for name, sd in (("n_params", foreseen.n_params.sd), ("n_tokens", foreseen.n_tokens.sd)):
        error = np.log(reached[name]) - np.log(getattr(foreseen, name).value)
        assert error.std() == pytest.approx(sd, rel=0.12)
        assert 0.92 <= float(np.mean(np.abs(error) < 1.96 * sd)) <= 0.98
    error = reached["loss"] - foreseen.loss.value
    assert error.std() == pytest.approx(foreseen.loss.sd, rel=0.12)
    assert float(foreseen.cost.value) == pytest.approx(flops)
    assert foreseen.cost.sd == pytest.approx(0.0, abs=1e-9)


def test_branches_of_a_trunk_scatter_together() -> None:
    """What trunks share widens the interval just as refits of correlated runs do (fits by plain least squares)."""
    noise = RunNoise(sd=0.004, trunk_share=0.8)
    cells = grid(count=2)
    runs = DesignRuns.of_cells(cells)
    assert len(np.unique(runs.trunk_n)) == 10
    alone, shared = (
        predicted_optimum_interval(BESIROGLU, cells, noise=n, flops=1e22).n_params.sd for n in (NOISE, noise)
    )
    scattered = np.log(optimum_quantities(LAW, SIX_ND, flops=1e22)(refits(runs, noise, 300))["n_params"]).std()
    assert shared != pytest.approx(alone, rel=0.05)
    # Weighing by the covariance is no worse than plain least squares, and not by much better here.
    assert shared * 0.9 <= scattered <= shared * 1.35


def test_as_many_runs_as_parameters_know_their_own_losses_by_their_own_noise() -> None:
    """Such a fit goes through every run: the predicted log loss at a cell has the sd of that cell's mean."""
    cells = [Cell(1e8, 5e8, 1), Cell(1e8, 5e9, 4), Cell(5e8, 2e9, 2), Cell(5e8, 5e10, 1), Cell(4e9, 1e10, 3)]
    known = information(LAW, TRUTH, DesignRuns.of_cells(cells), NOISE)
    for n, d, count in cells:
        gradient = relative_gradient(partial(loss_at, n, d), TRUTH)["loss"]
        loss = float(LAW.predict(TRUTH, n, d))
        assert known.sd(gradient) == pytest.approx(loss * NOISE.sd / np.sqrt(count), rel=1e-4)


def test_a_branch_more_of_a_trunk_averages_what_they_do_not_share() -> None:
    """The mean of m branches has the variance sd^2 (share + (1 - share)/m)."""
    share, m = 0.8, 6
    runs = DesignRuns.of_cells([Cell(1e8, 1e9 * (1 + i), 1) for i in range(m)])
    matrix = covariance_within(runs, RunNoise(sd=0.01, trunk_share=share))
    mean = np.full(m, 1 / m)
    assert mean @ matrix @ mean == pytest.approx(0.01**2 * (share + (1 - share) / m))


@pytest.mark.parametrize("share", [0.0, 0.8])
@pytest.mark.parametrize("length", [0.0, 3.0])
def test_cells_of_several_seeds_tell_what_their_runs_do(share: float, length: float) -> None:
    """By the runs' whole covariance, with seeds that only some cells of a trunk have, and runs that share nothing."""
    noise = RunNoise(sd=0.004, misfit_sd=0.003, misfit_length=length, trunk_share=share)
    counts = [4, 4, 1, 1]
    cells = [Cell(n, n * 10 * 2**i, counts[i]) for n in np.geomspace(5e7, 2e9, 4) for i in range(4)]
    runs = DesignRuns.of_cells(cells)
    runs = dataclasses.replace(runs, trunk_n=np.where(runs.n_params_n < 6e7, "", runs.trunk_n))
    root = np.linalg.cholesky(covariance_within(runs, noise))
    whitened = np.linalg.solve(root, relative_jacobian(LAW, TRUTH, runs))
    root_PP = information(LAW, TRUTH, runs, noise).root_PP
    np.testing.assert_allclose(root_PP.T @ root_PP, whitened.T @ whitened, rtol=1e-6)


def test_seeds_that_cells_have_in_common_make_their_means_hang_together() -> None:
    """As many on each: the covariance of the means is the share of one run's variance, over the number of seeds."""
    runs = DesignRuns.of_cells([Cell(1e8, 1e9, 4), Cell(1e8, 2e9, 4)])
    _, covariance = by_cell(runs, RunNoise(sd=0.01, trunk_share=0.8))
    np.testing.assert_allclose(covariance, 0.01**2 / 4 * np.array([[1, 0.8], [0.8, 1]]))


def test_replicates_do_not_average_the_misfit_away() -> None:
    noise = RunNoise(sd=0.004, misfit_sd=0.003)
    by_count = [
        predicted_optimum_interval(BESIROGLU, grid(count=c), noise=noise, flops=1e22).n_params.sd for c in (1, 60)
    ]
    floor = predicted_optimum_interval(BESIROGLU, grid(), noise=RunNoise(sd=0.003), flops=1e22).n_params.sd
    assert by_count[0] > by_count[1] > floor
    assert by_count[1] == pytest.approx(floor, rel=0.03)


def test_the_optimum_moves_with_the_parameters_as_its_closed_form_does() -> None:
    """ln N* = [ln(alpha A / (beta B)) + beta ln(C/6)] / (alpha + beta)."""
    a, b, _, alpha, beta = TRUTH
    log_c = np.log(1e22 / 6)
    log_n = (np.log(alpha * a / (beta * b)) + beta * log_c) / (alpha + beta)
    by_alpha, by_beta = (1 / alpha - log_n) / (alpha + beta), (-1 / beta + log_c - log_n) / (alpha + beta)
    closed = [1 / (alpha + beta), -1 / (alpha + beta), 0.0, alpha * by_alpha, beta * by_beta]
    found = relative_gradient(optimum_quantities(LAW, SIX_ND, flops=1e22), TRUTH)["n_params"]
    np.testing.assert_allclose(found, closed, rtol=1e-6, atol=1e-6)


def test_a_target_loss_is_the_same_optimum_seen_from_the_loss() -> None:
    at_flops = predicted_optimum_interval(BESIROGLU, grid(), noise=NOISE, flops=1e22)
    at_loss = predicted_optimum_interval(BESIROGLU, grid(), noise=NOISE, target_loss=at_flops.loss.value)
    assert at_loss.n_params.value == pytest.approx(at_flops.n_params.value, rel=1e-3)
    assert at_loss.cost.value == pytest.approx(1e22, rel=1e-3)
    # Sure of the loss, it isn't sure of the compute that reaches it: dC = dL / (dL*/dC).
    assert at_loss.loss.sd == pytest.approx(0.0, abs=1e-6)
    slope = (
        optimum_quantities(LAW, SIX_ND, flops=1.01e22)(TRUTH)["loss"]
        - optimum_quantities(LAW, SIX_ND, flops=1e22)(TRUTH)["loss"]
    ) / np.log(1.01)
    assert at_loss.cost.sd == pytest.approx(at_flops.loss.sd / abs(slope), rel=0.02)


def test_runs_of_one_size_leave_size_untold() -> None:
    cells = [Cell(1e8, d) for d in np.geomspace(1e8, 1e11, 12)]
    found = predicted_optimum_interval(BESIROGLU, cells, noise=NOISE, flops=1e22)
    assert found.n_params.sd == np.inf
    assert (found.n_params.ci95.lo, found.n_params.ci95.hi) == (0.0, np.inf)
    assert found.information.condition_number == np.inf
    said = " / ".join(found.information.unidentified)
    assert "A " in said
    assert "alpha" in said
    assert "beta" not in said


def test_a_quantity_that_the_missing_direction_does_not_move_is_still_told() -> None:
    """One size says nothing of alpha, and all of the loss at that size."""
    cells = [Cell(1e8, d) for d in np.geomspace(1e8, 1e11, 12)]
    known = information(LAW, TRUTH, DesignRuns.of_cells(cells), NOISE)
    at_size = relative_gradient(partial(loss_at, 1e8, 5e9), TRUTH)["loss"]
    assert 0 < known.sd(at_size) < 0.02


def test_fewer_runs_than_parameters_say_which_directions_are_open() -> None:
    found = predicted_optimum_interval(BESIROGLU, [Cell(1e8, 1e9), Cell(1e9, 1e10)], noise=NOISE, flops=1e22)
    assert len(found.information.unidentified) == 3


def test_one_ratio_of_tokens_to_parameters_hardly_tells_and_says_what_blurs() -> None:
    cells = [Cell(n, 20 * n) for n in np.geomspace(1e7, 1e10, 20)]
    found = predicted_optimum_interval(BESIROGLU, cells, noise=NOISE, flops=1e22)
    assert found.n_params.sd > 5
    assert found.information.condition_number > 1e4
    assert {"A", "B"} <= set(found.information.weakest.replace("%", "").split())


@pytest.mark.parametrize("law", ["overtraining", "kaplan", "skaling"])
def test_other_laws_are_foreseen_too(law: str) -> None:
    chosen = get_law(law)
    runs = DesignRuns.of_cells(grid(ratio_span=100.0))
    loss = LAW.predict(TRUTH, runs.n_params_n, runs.n_tokens_n)
    problem = chosen.problem(runs.n_params_n, runs.n_tokens_n, loss)
    goal = Objective(name="lsq_log")
    start = problem.starts(loss / problem.scale, np.ones(len(runs)))
    best = minimise(problem, goal, loss[None] / problem.scale, np.ones((1, len(runs))), start, goal.stages)
    params = problem.to_params(best.theta_KP[np.argmin(best.value_K)][None])[0]
    named = dict(zip(chosen.parameter_names, params.tolist(), strict=True))
    found = predicted_optimum_interval(named, runs, noise=NOISE, flops=1e21, law=law)
    assert 0 < found.n_params.sd < 3
    assert found.n_params.ci95.lo < found.n_params.value < found.n_params.ci95.hi


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"flops": 1e22, "target_loss": 2.0}, "name one of the two"),
        ({}, "name one of the two"),
        ({"target_loss": 1.5}, "loss at infinite size and data is 1.817"),
        ({"flops": -1.0}, "above 0"),
        ({"flops": 1e22, "cells": []}, "name a cell"),
        ({"flops": 1e22, "cells": [(1e8, 0.0, 1)]}, "must be above 0"),
        ({"flops": 1e22, "law_params": {"A": 1.0}}, "B, E, alpha, beta was not given"),
    ],
)
def test_refusals(change: dict[str, object], says: str) -> None:
    asked: dict[str, object] = {"law_params": BESIROGLU, "cells": grid(), "noise": NOISE, **change}
    with pytest.raises(UserError, match=says):
        predicted_optimum_interval(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("noise", "says"),
    [({"sd": 0.0}, "sd"), ({"sd": 0.01, "misfit_sd": -1.0}, "misfit"), ({"sd": 0.01, "trunk_share": 1.0}, "trunk")],
)
def test_impossible_noise_is_refused(noise: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        RunNoise(**noise)
