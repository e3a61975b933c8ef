"""The test for structure in the residuals: quiet on laws of the right form, loud on others, honest about trunks."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from analysis.fitting.describe_fit import describe_fit
from analysis.fitting.fit import fit
from analysis.fitting.residual_structure import residual_structure
from analysis.results import Array, ResidualStructure
from tests.analysis.tables import BESIROGLU, make_table, predict, spread_design

TABLES = 60


def chinchilla(n: Array, d: Array) -> Array:
    return predict(BESIROGLU, n, d)


def kaplan(n: Array, d: Array) -> Array:
    """Kaplan et al. 2020, equation 1.5."""
    return np.asarray(((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095)


def skaling(n: Array, d: Array) -> Array:
    """A power k of the sum of terms (arXiv 2608.07222)."""
    return np.asarray(1.5 + (0.7 * (4e8 / n) ** 0.6 + 0.7 * (8e9 / d) ** 0.6) ** 0.55)


def scattered(rng: np.random.Generator) -> tuple[Array, Array]:
    return spread_design(60, rng)


def grid(rng: np.random.Generator) -> tuple[Array, Array]:
    n = np.repeat(np.geomspace(1e8, 6e9, 6), 5)
    return n, n * np.tile(np.geomspace(5, 300, 5), 6)


def structure_of(
    law: Callable[[Array, Array], Array],
    design: Callable[[np.random.Generator], tuple[Array, Array]],
    noise: float,
    seed: int,
    *,
    trunk_noise: float = 0.0,
    objective: str = "huber_log",
) -> ResidualStructure:
    """Two seeds of each run where trunks err together: a trunk is one size and seed."""
    rng = np.random.default_rng(seed)
    n, d = design(rng)
    groups = None
    log_noise = noise * rng.standard_normal(len(n))
    if trunk_noise:
        n, d, log_noise = np.tile(n, 2), np.tile(d, 2), noise * rng.standard_normal(2 * len(n))
        of_size = np.unique(n, return_inverse=True)[1]
        trunk = of_size + (np.arange(len(n)) >= len(n) // 2) * (of_size.max() + 1)
        log_noise = log_noise + trunk_noise * rng.standard_normal(trunk.max() + 1)[trunk]
        groups = [f"trunk-{i}" for i in trunk]
    found = fit(make_table(n, d, law(n, d) * np.exp(log_noise), groups=groups), bootstrap=0, objective=objective)
    return residual_structure(found)


@pytest.mark.parametrize("design", [scattered, grid])
@pytest.mark.parametrize("objective", ["huber_log", "lsq_log"])
def test_a_law_of_the_right_form_is_seldom_flagged(
    design: Callable[[np.random.Generator], tuple[Array, Array]], objective: str
) -> None:
    """At a level of 5 % over three axes; of 60 tables 3 are expected, and more than 8 come once in 200 times."""
    assert (
        sum(structure_of(chinchilla, design, 0.01, seed, objective=objective).structured for seed in range(TABLES)) <= 8
    )


def test_trunks_that_err_together_are_no_structure() -> None:
    """The runs of a trunk share most of their noise, which a test that took them as independent would call structure in N."""
    results = [structure_of(chinchilla, grid, 0.004, seed, trunk_noise=0.01) for seed in range(TABLES)]
    assert sum(result.structured for result in results) <= 8
    shares = [float(re.search(r"share (\d+)% of their variance", result.method)[1]) for result in results]  # type: ignore[index]
    assert np.mean(shares) > 50


@pytest.mark.parametrize("law", [kaplan, skaling])
@pytest.mark.parametrize("design", [scattered, grid])
def test_a_law_of_another_form_is_flagged(
    law: Callable[[Array, Array], Array], design: Callable[[np.random.Generator], tuple[Array, Array]]
) -> None:
    assert sum(structure_of(law, design, 0.003, seed).structured for seed in range(20)) >= 18


def test_what_was_found_is_said() -> None:
    n, d = grid(np.random.default_rng(0))
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(n)))
    found = fit(make_table(n, d, kaplan(n, d) * noise), bootstrap=0)
    structure = residual_structure(found)
    axis = structure.axes[2]
    assert axis.structured
    assert axis.p_holm is not None
    assert axis.p_value is not None
    assert axis.p_value <= axis.p_holm < structure.level
    assert len(axis.at) == len(axis.miss) == 5
    assert list(axis.at) == sorted(axis.at)
    assert "above the runs near D/N" in axis.shape
    text = describe_fit(found, structure=structure)
    assert "The residuals still go with" in text
    assert axis.shape in text


def test_too_few_runs_can_show_nothing() -> None:
    n, d = spread_design(8, np.random.default_rng(1))
    noise = np.exp(0.01 * np.random.default_rng(2).standard_normal(8))
    structure = residual_structure(fit(make_table(n, d, chinchilla(n, d) * noise), bootstrap=0))
    assert not structure.structured
    assert all(axis.p_value is None for axis in structure.axes)
