"""Weights from the noise between repeated seeds."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fitting.fit import fit
from analysis.fitting.noise_model import noise_model
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
    assert np.mean([model.sd_at(1e7) for model in models]) == pytest.approx(0.02, rel=0.1)
    assert models[0].degrees_of_freedom == 5 * (3 + 3 + 3 + 1 + 1)


def test_weights_are_inverse_variances() -> None:
    table = repeated([4, 4, 2, 1, 1])
    found = fit(table, weights="noise", bootstrap=0)
    model = found.noise_model
    assert model is not None
    for point in found.points:
        assert point.weight == pytest.approx((model.sd / model.sd_at(point.n_params)) ** 2)
    by_hand = [point.weight for point in found.points]
    assert found.params == pytest.approx(
        fit(RunTable(source="", frame=table.frame.assign(weight=by_hand)), bootstrap=0).params
    )
    assert fit(table, bootstrap=0).noise_model is None


def test_they_bring_the_fit_nearer_to_the_truth() -> None:
    """Where small models scatter ten times more than large ones; mean squared error of the loss at 10x the largest N and D."""
    n, d = 10 * SIZES[-1], 10 * SIZES[-1] * 100
    truth = float(predict(BESIROGLU, np.array(n), np.array(d)))
    errors = {"column": 0.0, "noise": 0.0}
    for random in range(20):
        table = repeated([3, 3, 3, 1, 1], exponent=0.5, random=random)
        for weights in errors:
            found = fit(table, weights=weights, objective="lsq_log", bootstrap=0)
            errors[weights] += (float(predict(found.params, np.array(n), np.array(d))) - truth) ** 2
    assert errors["noise"] < 0.7 * errors["column"]


def test_noise_measured_far_from_some_sizes_is_told() -> None:
    found = fit(repeated([3, 3, 1, 1, 1]), weights="noise", bootstrap=0)
    assert any("are extrapolated 32x in size" in warning for warning in found.warnings)
    assert not any(
        "extrapolated" in warning for warning in fit(repeated([3, 3, 3, 3, 3]), weights="noise", bootstrap=0).warnings
    )


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
