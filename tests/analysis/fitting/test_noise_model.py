"""Weights from the noise between repeated seeds."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fitting.bootstrap import draw
from analysis.fitting.fit import fit
from analysis.fitting.noise_model import noise_model, noise_scale_at, noise_weights
from analysis.fitting.objective import Objective
from analysis.fitting.run_arrays import RunArrays
from analysis.runs.table import RunTable
from llama.errors import UserError
from tests.analysis.tables import BESIROGLU, make_table, predict

SIZES, RATIOS = np.geomspace(1e7, 1e9, 5), np.geomspace(5, 300, 5)


def repeated(seeds: list[int], exponent: float = 0.4, sd: float = 0.02, random: int = 0) -> RunTable:
    """A grid of sizes and ratios, size i trained with seeds[i] seeds; noise sd (N / 1e7)^-exponent."""
    cells = [(n, n * ratio, seed) for n, k in zip(SIZES, seeds, strict=True) for ratio in RATIOS for seed in range(k)]
    n, d = (np.array([cell[i] for cell in cells]) for i in (0, 1))
    noise = sd * (n / 1e7) ** -exponent * np.random.default_rng(random).standard_normal(len(n))
    designs = [f"{size:g}-{tokens:g}" for size, tokens, _ in cells]
    return make_table(n, d, predict(BESIROGLU, n, d) * np.exp(noise), designs=designs)


def test_the_power_law_of_the_noise_returns() -> None:
    models = [noise_model(repeated([4, 4, 4, 2, 2], random=i).frame, "n_params", "t") for i in range(30)]
    exponents = [model.exponent for model in models]
    assert np.mean(exponents) == pytest.approx(0.4, abs=0.03)
    assert np.std(exponents) < 0.15
    at_1e7 = [model.sd * float(noise_scale_at(model, np.array(1e7))) for model in models]
    assert np.mean(at_1e7) == pytest.approx(0.02, rel=0.1)
    assert models[0].degrees_of_freedom == 5 * (3 + 3 + 3 + 1 + 1)


@pytest.mark.parametrize(
    ("objective", "delta", "power"),
    [("lsq_log", 1e-3, 2), ("lsq", 1e-3, 2), ("lad_log", 1e-3, 1), ("huber_log", 1e-3, 1), ("huber_log", 0.5, 2)],
)
def test_weights_put_residuals_over_their_noise(objective: str, delta: float, power: int) -> None:
    """Squared residuals over the variance, absolute ones over the sd; past the repeated sizes the nearest one's noise."""
    table = repeated([4, 4, 2, 1, 1])
    found = fit(table, weights="noise", objective=objective, delta=delta, bootstrap=0)
    model = found.noise_model
    assert model is not None
    noise = np.array([(min(point.n_params, SIZES[2]) / model.n_params) ** -model.exponent for point in found.points])
    assert [point.weight for point in found.points] == pytest.approx(noise**-power)
    typical = np.exp(np.log(noise).mean())
    assert [point.noise_scale for point in found.points] == pytest.approx(noise / typical)
    by_hand = [point.weight for point in found.points]
    column = RunTable(source="", frame=table.frame.assign(weight=by_hand))
    assert found.params == pytest.approx(fit(column, objective=objective, delta=delta, bootstrap=0).params)
    assert fit(table, bootstrap=0).noise_model is None


@pytest.mark.parametrize("objective", ["huber_log", "lsq_log"])
def test_the_noise_redrawn_is_the_models_whatever_the_weights(objective: str) -> None:
    """Small sizes scatter (1e7/1e9)^-0.4 = 6.3 times as much as the largest."""
    runs = RunArrays.of(repeated([4, 4, 4, 4, 4]).fitted, "n_params")
    model = noise_model(runs.frame, "n_params", "t")
    goal = Objective(name=objective)
    weighted = runs.weighted(noise_weights(model, runs.n_params, goal), noise_scale_at(model, runs.n_params))
    drawn = draw(
        weighted.frame, runs.loss, 0.01, counting="n_params", draws=4000, seed=0, resampling="parametric"
    ).log_loss_Kn.std(axis=0)
    smallest, largest = (drawn[runs.n_params == size].mean() for size in (SIZES[0], SIZES[-1]))
    assert smallest / largest == pytest.approx(100**model.exponent, rel=0.05)
    assert model.exponent == pytest.approx(0.4, abs=0.15)


def squared_error(objective: str, power: float) -> float:
    """Of the loss at 10x the largest N and D where small models scatter 25 times more than large ones, over 20 tables weighed
    by the model's noise to -`power`."""
    n, d = 10 * SIZES[-1], 10 * SIZES[-1] * 100
    truth = float(predict(BESIROGLU, np.array(n), np.array(d)))
    total = 0.0
    for random in range(20):
        frame = repeated([3, 3, 3, 3, 3], exponent=0.7, random=random).frame
        noise = noise_scale_at(noise_model(frame, "n_params", "t"), frame["n_params"].to_numpy())
        found = fit(RunTable(source="", frame=frame.assign(weight=noise**-power)), objective=objective, bootstrap=0)
        total += (float(predict(found.params, np.array(n), np.array(d))) - truth) ** 2
    return total


def test_they_bring_the_fit_nearer_to_the_truth() -> None:
    assert squared_error("lsq_log", 2.0) < 0.7 * squared_error("lsq_log", 0.0)


def test_absolute_residuals_go_by_the_sd_and_not_by_the_variance() -> None:
    by_sd = squared_error("huber_log", 1.0)
    assert by_sd < squared_error("huber_log", 0.0)
    assert by_sd < 0.7 * squared_error("huber_log", 2.0)


def test_noise_is_not_carried_past_the_sizes_that_were_repeated() -> None:
    """It has a floor: a power of N past it would trust the largest runs too much."""
    found = fit(repeated([3, 3, 1, 1, 1]), weights="noise", bootstrap=0)
    assert found.noise_model is not None
    by_size = {point.n_params: point.noise_scale for point in found.points}
    assert by_size[SIZES[0]] > by_size[SIZES[1]]
    assert all(by_size[size] == pytest.approx(by_size[SIZES[1]]) for size in SIZES[2:])
    assert any("up to 32x beyond are weighed as the nearest" in warning for warning in found.warnings)
    everywhere = fit(repeated([3, 3, 3, 3, 3]), weights="noise", bootstrap=0)
    assert not any("beyond are weighed" in warning for warning in everywhere.warnings)


def test_a_column_that_is_not_used_is_told() -> None:
    table = repeated([2, 2, 2, 1, 1])
    weight = np.linspace(1, 2, len(table.frame))
    found = fit(RunTable(source="", frame=table.frame.assign(weight=weight)), weights="noise", bootstrap=0)
    assert any("column weight is not used" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([1, 1, 1, 1, 1], "Repeat seeds at two sizes or more"),
        ([3, 1, 1, 1, 1], "at one size only \\(10M parameters\\)"),
    ],
)
def test_too_few_repeats_are_refused(seeds: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(repeated(seeds), weights="noise", bootstrap=0)


def test_repeats_without_noise_are_refused() -> None:
    with pytest.raises(UserError, match="the losses of each cell are equal"):
        fit(repeated([2, 2, 2, 2, 2], sd=0.0), weights="noise", bootstrap=0)


def test_other_names_are_refused() -> None:
    with pytest.raises(UserError, match="no weights are called 'seeds'; there are column, noise"):
        fit(repeated([2, 2, 1, 1, 1]), weights="seeds", bootstrap=0)
