"""Optima and laws from trials that are made up: edges, resamples, what can't be told, and the recipe's numbers."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from llama.recipes.tuned_law import TunedLaw
from sweeps.designs.run_configs import lone_run
from sweeps.tuning.optimum import Curve
from sweeps.tuning.rate_law import EXPONENT_LIMIT, Point, RateLaws, fit_rate_laws
from sweeps.tuning.rate_search import RateTrials, cells_of
from sweeps.tuning.rate_study import LawEstimate, recipe_of
from sweeps.tuning.trials import Trial
from tests.sweeps.examples import CPU, FACTS
from tests.sweeps.tuning.surface import rate_sweep


def trial(log_lr: float, loss: float | None, *, batch: int = 512, state: str = "diverged") -> Trial:
    return Trial(
        cell="c", number=0, state="finished" if loss is not None else state, run_key="k", n_params=1, tokens=1,
        peak_lr=math.exp(log_lr), batch_tokens=batch, seed=0, loss=loss,
    )  # fmt: skip


def parabola(
    best: float, log_lrs: Sequence[float], *, best_batch: float = 512, batches: Sequence[int] = (512,)
) -> Curve:
    return Curve(
        [
            trial(x, 3 + 0.05 * (x - best) ** 2 + 0.05 * math.log(batch / best_batch) ** 2, batch=batch)
            for x in log_lrs
            for batch in batches
        ]
    )


RATES = (-6.0, -5.5, -5.0, -4.5, -4.0, -3.5)


def laws_of(curves: dict[str, Curve], points: dict[str, Point]) -> RateLaws:
    return fit_rate_laws(curves, points, held_out=[], seed=0, draws=50)


@pytest.mark.parametrize("state", ["diverged", "censored"])
def test_a_minimum_beyond_every_finished_trial_is_an_edge(state: str) -> None:
    finished = [trial(x, 3 + 0.05 * (x + 1) ** 2) for x in (-5.0, -4.25, -3.5, -2.75, -2.0)]
    optimum = Curve([*finished, trial(-0.5, None, state=state)]).optimum()
    assert not optimum.has_rate
    assert optimum.log_lr == pytest.approx(-2)
    (edge,) = optimum.edges
    assert (edge.quantity, edge.side, edge.tried_beyond, edge.curved) == ("peak_lr", "highest", True, True)


def test_where_the_curve_has_no_minimum_its_lower_end_stands_and_is_flagged() -> None:
    losses = {-6.0: 3.1, -5.5: 3.2, -5.0: 3.25, -4.5: 3.2, -4.0: 3.0}  # the best trial by luck might be any
    optimum = Curve([trial(x, loss) for x, loss in losses.items()]).optimum()
    assert optimum.log_lr == pytest.approx(-4)
    assert [edge.curved for edge in optimum.edges] == [False]


def test_the_lowest_point_of_rate_and_batch_is_that_of_the_curve_inside_what_finished() -> None:
    curve = parabola(-4.6, RATES, best_batch=1500, batches=(512, 1024, 2048))
    optimum = curve.optimum()
    assert optimum.edges == ()
    assert (optimum.log_lr, optimum.batch_tokens) == (pytest.approx(-4.6), pytest.approx(1500))
    x, y = np.meshgrid(np.linspace(-6, -3.5, 40), np.log(np.linspace(512, 2048, 40)))
    tilted = curve.fitted + 0.2 * curve.x * curve.y + 0.1 * curve.y
    moved = curve.optimum(tilted)
    through = Curve([trial(a, c, batch=round(math.exp(b))) for a, b, c in zip(curve.x, curve.y, tilted, strict=True)])
    through.coefficients = curve._solve @ tilted
    assert moved.loss <= through.at(x.ravel(), y.ravel()).min() + 1e-9


def test_resamples_without_a_minimum_are_counted_and_said() -> None:
    curves = {
        name: Curve([trial(x, 3 + curvature * (x + 4.7) ** 2 + 0.04 * (-1) ** k) for k, x in enumerate(RATES)])
        for name, curvature in (("flat", 0.012), ("b", 0.3), ("c", 0.3))
    }
    points = {name: Point(n_params=n, tokens=1_000_000) for name, n in (("flat", 10**4), ("b", 10**5), ("c", 10**6))}
    laws = laws_of(curves, points)
    assert laws.optima["flat"].has_rate
    assert laws.at_edge["flat"] > 0.05
    assert laws.at_edge["b"] == 0
    assert any(warning.startswith("flat: the best rate is at an end") for warning in laws.warnings)


def test_an_exponent_that_cannot_be_told_is_null() -> None:
    points = {name: Point(n_params=n, tokens=1_000_000) for name, n in (("a", 10**4), ("b", 10**5), ("c", 10**6))}
    laws = laws_of({name: parabola(-4.6 - 0.1 * k, RATES) for k, name in enumerate(points)}, points)
    told = LawEstimate.of(laws.peak_lr)
    assert told.n_exponent == pytest.approx(-0.1 / math.log(10), abs=1e-3)
    assert (told.d_exponent, told.d_exponent_ci95) == (None, None)
    assert told.words.endswith("D's exponent can't be told")
    assert laws.peak_lr.power_law.d_exponent == 0
    batch = LawEstimate.of(laws.batch_tokens)
    assert (batch.n_exponent, batch.d_exponent) == (None, None)


def test_resamples_keep_to_the_exponents_limit_as_the_law_does() -> None:
    sizes = {"a": 10_000, "b": 10_500, "c": 11_000}
    curves = {name: parabola(-4.0 - 0.5 * k, RATES) for k, name in enumerate(sizes)}
    law = laws_of(curves, {name: Point(n_params=n, tokens=10**6) for name, n in sizes.items()}).peak_lr
    assert law.coefficients[1] == -EXPONENT_LIMIT
    assert np.abs(law.draws[:, 1:]).max() <= EXPONENT_LIMIT


def test_the_recipes_batch_is_the_laws_where_the_batch_is_known_at_fewer_cells_than_the_rate() -> None:
    points = {name: Point(n_params=n, tokens=10**6) for name, n in
              (("a", 30_000), ("b", 100_000), ("c", 300_000), ("d", 1_000_000))}  # fmt: skip
    curves = {
        name: parabola(-4.6, RATES, best_batch=1000 * (point.n_params / 30_000) ** 0.5, batches=(500, 1000, 2000, 4000))
        for name, point in points.items()
    }
    laws = laws_of(curves, points)
    assert not laws.optima["d"].has_batch
    spec = rate_sweep()
    trials = RateTrials(
        spec=spec, corpus=FACTS, numerics=CPU, search=spec.tune.learning_rate, cells=cells_of(spec, FACTS, CPU)
    )
    law = recipe_of(trials, laws, date="2026-01-31").tuned
    assert isinstance(law, TunedLaw)
    at_100k = law.batch_tokens.at_middle * (100_000 / law.n.middle) ** law.batch_tokens.n_exponent
    assert at_100k == pytest.approx(1000 * (100_000 / 30_000) ** 0.5, rel=0.01)
    assert lone_run(spec, FACTS, CPU, trials.cells[0].model, 10**6, recipe_of(trials, laws, date="2026-01-31"), seed=0)
