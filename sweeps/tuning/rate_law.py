"""Power laws of the best rate and batch over sizes and horizons, with their intervals, and the recipe that they make.

    log value = a + n_exponent (log N - middle of N) + d_exponent (log D - middle of D)

by least squares in logarithms over the cells (sizes and horizons) whose curve has a minimum inside what was tried. The held-out
size is none of them. Intervals are from a bootstrap on both levels: each cell's trials get new noise, drawn from the pooled
residuals of all curves, and the cells themselves are drawn with replacement, so that a law that is no power law shows too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama.errors import UserError
from llama.recipes.tuned_law import PowerLaw, Range
from sweeps.tuning.optimum import Curve, Optimum

Array = NDArray[np.float64]

DRAWS = 1000
#: Exponents as `TunedLaw` holds them; a resample of few cells may ask for more.
EXPONENT_LIMIT = 2.0
#: What a 95 % interval leaves out on either side.
TAIL = 0.025


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a cell lies."""

    n_params: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """One law, and its resamples."""

    n: Range
    d: Range
    """Sizes and tokens whose middle, in logarithms, the law is centred on: of the cells with a best rate, for both laws."""
    coefficients: Array
    """Logarithm at the middle, exponent of N, exponent of D."""
    draws: Array
    """(draws, 3), exponents within the same limit as the coefficients'."""
    cells: tuple[str, ...]
    """Those that it was fitted to."""
    fixed: tuple[str, ...]
    """Exponents that these cells don't tell, and that a recipe holds as 0: `n_exponent`, `d_exponent`."""

    @property
    def power_law(self) -> PowerLaw:
        """As a recipe holds it, to four digits: no more are known."""
        at_middle, n, d = self.coefficients
        return PowerLaw(
            at_middle=float(f"{math.exp(at_middle):.4g}"), n_exponent=round(float(n), 4), d_exponent=round(float(d), 4)
        )

    def interval(self, index: int) -> tuple[float, float]:
        """95 % interval of a coefficient: 0 the value at the middle, 1 and 2 the exponents."""
        values = np.exp(self.draws[:, 0]) if index == 0 else self.draws[:, index]
        low, high = np.quantile(values, [TAIL, 1 - TAIL])
        return float(low), float(high)

    def at(self, point: Point) -> tuple[float, tuple[float, float]]:
        """The law's value at a size and horizon, with its 95 % interval."""
        row = _row(point, self.n, self.d)
        low, high = np.exp(np.quantile(self.draws @ row, [TAIL, 1 - TAIL]))
        return float(np.exp(row @ self.coefficients)), (float(low), float(high))


@dataclass(frozen=True, kw_only=True)
class RateLaws:
    """Both laws, each cell's optimum, and how the noise of trials moves it."""

    peak_lr: FittedLaw
    batch_tokens: FittedLaw
    optima: dict[str, Optimum]
    intervals: dict[str, tuple[float, float]]
    """95 % interval of each cell's best rate, the held-out ones' too."""
    batch_intervals: dict[str, tuple[float, float]]
    at_edge: dict[str, float]
    """Share of each cell's resamples whose best rate lies at an end of what finished. They count with that end, so an interval
    that reaches it may reach further."""
    noise: float
    """Standard deviation of a trial's loss around its cell's curve, in nats."""
    warnings: tuple[str, ...]


def fit_rate_laws(
    curves: Mapping[str, Curve], points: Mapping[str, Point], *, held_out: Sequence[str], seed: int, draws: int = DRAWS
) -> RateLaws:
    """Fit both laws to the cells that are not held out.

    Raises:
        UserError: the cells whose optimum is known don't tell a law.
    """
    generator = np.random.default_rng(seed)
    residuals = np.concatenate([curve.residuals for curve in curves.values()])
    optima = {name: curve.optimum() for name, curve in curves.items()}
    redrawn = {name: curve.draws(residuals, draws, generator) for name, curve in curves.items()}
    fitted = [name for name in curves if name not in held_out]
    warnings = [f"{name}: {edge}; it is no point of the law" for name in optima for edge in optima[name].edges]
    with_rate = [name for name in fitted if optima[name].has_rate]
    if len(with_rate) < 2:
        raise UserError(
            f"tune: the best rate is inside what was tried at {len(with_rate)} of {len(fitted)} sizes and horizons, too few "
            "for a law: widen tune.learning_rate.lr_multiples, or raise its trials"
        )
    lr_values = {name: [optimum.log_lr for optimum in redrawn[name]] for name in curves}
    batch_values = {name: [optimum.log_batch for optimum in redrawn[name]] for name in curves}
    log_lrs = {name: optimum.log_lr for name, optimum in optima.items()}
    log_batches = {name: optimum.log_batch for name, optimum in optima.items()}
    with_batch = [name for name in with_rate if optima[name].has_batch]
    several = any(len(set(curve.y.tolist())) > 1 for curve in curves.values())
    constant_batch = len(with_batch) < 3 or not several
    if constant_batch:
        with_batch = with_rate
        warnings += ["the best batch is known at too few cells for a law: one batch stands for all"] if several else []
    ranges = _ranges([points[name] for name in with_rate])
    lr_law = _fit(log_lrs, lr_values, points, with_rate, ranges, generator)
    batch_law = _fit(log_batches, batch_values, points, with_batch, ranges, generator, constant=constant_batch)
    at_edge = {name: sum(not optimum.has_rate for optimum in redrawn[name]) / draws for name in curves}
    warnings += [
        f"{name}: the best rate is at an end of what finished in {at_edge[name]:.0%} of its resamples, so its interval may "
        "reach further"
        for name in curves
        if optima[name].has_rate and at_edge[name] > TAIL
    ]
    warnings += [
        f"{field} of the rate's law is beyond {EXPONENT_LIMIT:g}, more than any rule has, and was kept there"
        for field, value in zip(("n_exponent", "d_exponent"), lr_law.coefficients[1:], strict=True)
        if abs(value) == EXPONENT_LIMIT
    ]
    warnings += [
        f"{field} of the rate's law can't be told from these cells; the recipe holds 0" for field in lr_law.fixed
    ]
    return RateLaws(
        peak_lr=lr_law,
        batch_tokens=batch_law,
        optima=optima,
        intervals={name: _interval(values) for name, values in lr_values.items()},
        batch_intervals={name: _interval(values) for name, values in batch_values.items()},
        at_edge=at_edge,
        noise=float(np.std(residuals)),
        warnings=tuple(warnings),
    )


def _fit(
    values: Mapping[str, float],
    redrawn: Mapping[str, Sequence[float]],
    points: Mapping[str, Point],
    cells: Sequence[str],
    ranges: tuple[Range, Range],
    generator: np.random.Generator,
    *,
    constant: bool = False,
) -> FittedLaw:
    n, d = ranges
    rows = np.stack([_row(points[cell], n, d) for cell in cells])
    free = [0] if constant else _free_columns(rows)
    y = np.array([values[cell] for cell in cells])
    drawn = np.array([redrawn[cell] for cell in cells]).T
    draws = np.zeros((len(drawn), 3))
    for index, draw in enumerate(drawn):
        while True:
            chosen = generator.integers(len(cells), size=len(cells))
            if np.linalg.matrix_rank(rows[chosen][:, free]) == len(free):
                break
        draws[index, free] = np.linalg.lstsq(rows[chosen][:, free], draw[chosen], rcond=None)[0]
    coefficients = np.zeros(3)
    coefficients[free] = np.linalg.lstsq(rows[:, free], y, rcond=None)[0]
    for exponents in (coefficients[1:], draws[:, 1:]):
        np.clip(exponents, -EXPONENT_LIMIT, EXPONENT_LIMIT, out=exponents)
    names = ("at_middle", "n_exponent", "d_exponent")
    fixed = tuple(names[column] for column in (1, 2) if column not in free)
    return FittedLaw(n=n, d=d, coefficients=coefficients, draws=draws, cells=tuple(cells), fixed=fixed)


def _ranges(points: Sequence[Point]) -> tuple[Range, Range]:
    sizes, tokens = [point.n_params for point in points], [point.tokens for point in points]
    return Range(low=min(sizes), high=max(sizes)), Range(low=min(tokens), high=max(tokens))


def _row(point: Point, n: Range, d: Range) -> Array:
    return np.array([1.0, math.log(point.n_params / n.middle), math.log(point.tokens / d.middle)])


def _free_columns(rows: Array) -> list[int]:
    """The columns that the cells tell apart, the size's before the horizon's."""
    free = [0]
    for column in (1, 2):
        if np.linalg.matrix_rank(rows[:, [*free, column]], tol=1e-6) == len(free) + 1:
            free.append(column)
    return free


def _interval(logs: Sequence[float]) -> tuple[float, float]:
    low, high = np.exp(np.quantile(np.array(logs), [TAIL, 1 - TAIL]))
    return float(low), float(high)
