"""Sizes trained far from the tuned learning rate, and best rates at the edge of those tried."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fitting.fit import fit
from analysis.runs.table import RunTable, make_frame
from tests.analysis.tables import BESIROGLU, predict

SIZES = np.geomspace(1e7, 1e9, 5)
RATIOS = np.array([5.0, 20.0, 80.0, 320.0])


def best_rate(n_params: float) -> float:
    return float(0.01 * (n_params / 1e7) ** -0.3)


def loss_at(n_params: float, n_tokens: float, rate: float) -> float:
    """The law, and 3 % more for each squared factor e off the best rate."""
    off = np.log(rate / best_rate(n_params))
    return float(predict(BESIROGLU, np.array(n_params), np.array(n_tokens)) * np.exp(0.03 * off**2))


def study(off: dict[int, float], tried: dict[int, tuple[float, ...]]) -> RunTable:
    """Each size at four ratios, `off` times its best rate; `tried` lists multiples of the best rate that a size's shortest run
    was trained at as well."""
    rows = []
    for number, size in enumerate(SIZES):
        for ratio in RATIOS:
            rates = {off.get(number, 1.0)}
            if ratio == RATIOS[0]:
                rates |= set(tried.get(number, ()))
            rows += [(size, ratio * size, factor * best_rate(size)) for factor in rates]
    return RunTable(
        source="rates",
        frame=make_frame(
            [
                {
                    "run_id": f"run-{i}",
                    "name": f"run-{i}",
                    "n_params": n,
                    "n_tokens": d,
                    "loss": loss_at(n, d, rate),
                    "peak_lr": rate,
                    "status": "finished",
                }
                for i, (n, d, rate) in enumerate(rows)
            ]
        ),
    )


THREE = (0.5, 1.0, 2.0)


def test_a_recipe_at_the_tuned_rates_is_left_alone() -> None:
    found = fit(study({}, {0: THREE, 2: THREE}), bootstrap=0)
    assert found.off_rate == ()
    assert not any("learning rate" in warning for warning in found.warnings)


def test_a_size_far_from_the_law_of_the_tuned_ones_is_flagged() -> None:
    """Size 4 was trained at 3x the rate that the tuned sizes 0 and 2 point to; size 3 at 1.5x is near enough."""
    found = fit(study({4: 3.0, 3: 1.5}, {0: THREE, 2: THREE}), bootstrap=0)
    [flag] = found.off_rate
    assert flag.n_params == SIZES[4]
    assert flag.n_runs == 4
    assert flag.tuned_lr == pytest.approx(best_rate(SIZES[4]), rel=1e-6)
    assert flag.peak_lr == pytest.approx(3 * best_rate(SIZES[4]))
    assert "1.0B parameters" in flag.reason
    assert "3x the tuned" in flag.reason
    assert "extrapolated in size" in flag.reason
    assert any(flag.reason in warning for warning in found.warnings)


def test_the_tuned_rate_is_the_vertex_between_those_tried() -> None:
    """Tried at 0.4, 0.8 and 1.6 times the best: the parabola finds the best, and 2.5x that is far."""
    off_grid = (0.4, 0.8, 1.6)
    [flag] = fit(study({4: 2.5}, {0: off_grid, 1: off_grid, 2: off_grid}), bootstrap=0).off_rate
    assert flag.tuned_lr == pytest.approx(best_rate(SIZES[4]), rel=1e-6)


def test_one_tuned_size_speaks_for_itself_alone() -> None:
    assert fit(study({4: 5.0}, {0: THREE}), bootstrap=0).off_rate == ()


def test_a_best_rate_at_the_edge_is_told() -> None:
    [flag] = fit(study({1: 0.5}, {1: (0.125, 0.25)}), bootstrap=0).off_rate
    assert flag.n_params == SIZES[1]
    assert flag.tuned_lr is None
    assert "is the highest of those tried: a higher one may be better" in flag.reason


def test_tables_without_rates_have_nothing_to_flag() -> None:
    table = study({4: 3.0}, {0: THREE, 2: THREE})
    frame = table.at_the_best_rate().frame.assign(peak_lr=np.nan)
    assert fit(RunTable(source="", frame=frame), bootstrap=0).off_rate == ()
