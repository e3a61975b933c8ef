"""Approach 2 (Hoffmann et al. 2022, section 3.2): a parabola in log N a declared budget, power laws through their vertices.

Parabolas are biased when alpha != beta or a bowl is wide or off-centre, so a cubic, which may be steeper on one side, is held
against each, and the surface is fitted as well; here stands what the bowls say by themselves.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.results import Array, Band, BowlPoint, CubicVertex, Interval, Isoflop, IsoflopVertex, PowerLaw, TokenCost
from analysis.runs.table import RunTable

MIN_SIZES = 3
#: Sizes from which a cubic is drawn: one to spare.
MIN_CUBIC_SIZES = 5
#: Vertices of parabola and cubic further apart than this factor in N are told: the power law through either then differs.
CUBIC_DIFFERS = 1.25
#: A vertex further off the bowl than this, in ln N, is no number to show.
FARTHEST = 50.0
#: Points of a power law's curve, and how far past the vertices it is drawn.
GRID = 60
BEYOND = 2.0


def isoflop(table: RunTable, train_flops: TokenCost, *, counting: str = "n_params") -> Isoflop | None:
    """Vertices and power laws of the runs that are not held out; None where none of them declares a budget.

    Runs are grouped by `flops_budget`, never by FLOPs.
    """
    declared = table.fitted.dropna(subset=["flops_budget", counting])
    if not len(declared):
        return None
    vertices = tuple(
        _vertex(float(budget), runs, train_flops, counting)  # type: ignore[arg-type]
        for budget, runs in declared.groupby("flops_budget", sort=True)
    )
    trusted = [vertex for vertex in vertices if vertex.flag is None]
    return Isoflop(
        vertices=vertices,
        n_opt=power_law("n_opt", trusted),
        d_opt=power_law("d_opt", trusted),
        skipped=tuple(
            f"{vertex.flops_budget:.3g} FLOPs: {vertex.flag}" for vertex in vertices if vertex.flag is not None
        ),
    )


def _vertex(budget: float, runs: pd.DataFrame, train_flops: TokenCost, counting: str) -> IsoflopVertex:
    by_size = runs.assign(weighted=runs["weight"] * runs["loss"]).groupby(counting, sort=True)
    weight = by_size["weight"].sum().to_numpy(dtype=np.float64)
    sizes, n_tokens, loss, n_runs = (
        np.asarray(values, dtype=np.float64)
        for values in (
            by_size[counting].first(),
            by_size["n_tokens"].mean(),
            by_size["weighted"].sum() / weight,
            by_size.size(),
        )
    )
    points = tuple(
        BowlPoint(n_params=float(n), n_tokens=float(d), loss=float(mean), n_runs=int(count))
        for n, d, mean, count in zip(sizes, n_tokens, loss, n_runs, strict=True)
    )
    log_n = np.log(sizes)
    centre = float(log_n.mean())
    # A cell's mean over seeds counts by its runs' weights.
    drawn = parabolas(log_n - centre, loss[None], weight[None])
    flag = drawn.flags_K[0]
    coefficients = n_opt = d_opt = least = cubic = None
    if len(points) >= MIN_SIZES:
        c0, c1, c2 = map(float, drawn.coefficients_K3[0])
        coefficients = (c0, c1, c2)
        if c2 > 0 and abs(float(drawn.x_K[0])) < FARTHEST:
            n_opt = float(np.exp(drawn.x_K[0] + centre))
            d_opt = budget / float(train_flops(n_opt))
            least = float(drawn.loss_K[0])
            cubic = _cubic(log_n - centre, loss, weight, n_opt, budget, train_flops, centre)
    return IsoflopVertex(
        flops_budget=budget,
        points=points,
        ln_n_centre=centre,
        coefficients=coefficients,
        n_opt=n_opt,
        d_opt=d_opt,
        loss=least,
        flag=flag,
        cubic=cubic,
    )


class Parabolas(NamedTuple):
    """Parabolas c0 + c1 x + c2 x^2 through K versions of one bowl; NaN where there is none."""

    coefficients_K3: Array
    x_K: Array
    loss_K: Array
    """The vertex."""
    flags_K: list[str | None]
    """Why a vertex is not to be trusted."""


def parabolas(x_S: Array, loss_KS: Array, weight_KS: Array) -> Parabolas:
    """Weighted least squares over the sizes with a weight; `x_S` ascending. One bowl, or K resamples of it at once."""
    present = weight_KS > 0
    weight, loss = np.where(present, weight_KS, 0.0), np.where(present, loss_KS, 0.0)
    powers_S3 = np.stack([np.ones_like(x_S), x_S, x_S**2], axis=1)
    gram = np.einsum("ks,si,sj->kij", weight, powers_S3, powers_S3)
    moment = np.einsum("ks,si->ki", weight * loss, powers_S3)
    enough = present.sum(axis=1) >= MIN_SIZES
    # A ridge far below anything that matters keeps sizes that all but coincide solvable.
    gram += 1e-14 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    gram[~enough] = np.eye(3)
    coefficients = np.linalg.solve(gram, moment[:, :, None])[:, :, 0]
    coefficients[~enough] = np.nan
    c0, c1, c2 = coefficients.T
    with np.errstate(divide="ignore", invalid="ignore"):
        upwards = c2 > 0
        x = np.where(upwards, -c1 / (2 * c2), np.nan)
        least = np.where(upwards, c0 - c1**2 / (4 * c2), np.nan)
    low, high = _ends(present)
    lowest = np.argmin(np.where(present, loss, np.inf), axis=1)
    flags = [
        f"{int(present[k].sum())} of the {MIN_SIZES} sizes that a parabola needs"
        if not enough[k]
        else "the bowl does not curve upwards"
        if not upwards[k]
        else "the vertex lies outside the sizes"
        if not x_S[low[k]] <= x[k] <= x_S[high[k]]
        else f"the least loss is at the {'smallest' if lowest[k] == low[k] else 'largest'} size"
        if lowest[k] in (low[k], high[k])
        else None
        for k in range(len(loss))
    ]
    return Parabolas(coefficients_K3=coefficients, x_K=x, loss_K=least, flags_K=flags)


def _ends(present_KS: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first and the last size that is there."""
    return np.argmax(present_KS, axis=1), present_KS.shape[1] - 1 - np.argmax(present_KS[:, ::-1], axis=1)


def _cubic(
    x_S: Array, loss_S: Array, weight_S: Array, parabola_n: float, budget: float, train_flops: TokenCost, centre: float
) -> CubicVertex | None:
    """The cubic's minimum among the sizes; None where it has none, or nothing to spare to draw it from."""
    if len(x_S) < MIN_CUBIC_SIZES:
        return None
    c3, c2, c1, c0 = (float(value) for value in np.polyfit(x_S, loss_S, 3, w=np.sqrt(weight_S)))
    under_root = c2**2 - 3 * c1 * c3
    # The root at which the slope rises, in the form that stays exact for c3 near 0.
    if under_root <= 0 or c2 + under_root**0.5 <= 0:
        return None
    x = -c1 / (c2 + under_root**0.5)
    if not x_S[0] <= x <= x_S[-1]:
        return None
    n_opt = float(np.exp(x + centre))
    ratio = n_opt / parabola_n
    return CubicVertex(
        coefficients=(c0, c1, c2, c3),
        n_opt=n_opt,
        d_opt=budget / float(train_flops(n_opt)),
        loss=c0 + c1 * x + c2 * x**2 + c3 * x**3,
        ratio=ratio,
        differs=not 1 / CUBIC_DIFFERS <= ratio <= CUBIC_DIFFERS,
    )


def power_law(quantity: Literal["n_opt", "d_opt"], vertices: list[IsoflopVertex]) -> PowerLaw | None:
    """log y = log k + a log C through the vertices; the band is Student's t for the mean, NaN with only two vertices."""
    from scipy.stats import t as student

    if len(vertices) < 2:
        return None
    log_c = np.log([vertex.flops_budget for vertex in vertices])
    log_y = np.log([float(getattr(vertex, quantity)) for vertex in vertices])
    centre = log_c.mean()
    spread = float(((log_c - centre) ** 2).sum())
    exponent = float((log_c - centre) @ log_y / spread)
    mean = float(log_y.mean())
    grid = np.linspace(log_c.min() - np.log(BEYOND), log_c.max() + np.log(BEYOND), GRID)
    middle = mean + exponent * (grid - centre)
    half: Array = np.full(GRID, np.nan)
    interval = None
    freedom = len(vertices) - 2
    if freedom > 0:
        residual = log_y - mean - exponent * (log_c - centre)
        sd = np.sqrt(float(residual @ residual) / freedom)
        quantile = float(student.ppf(0.975, freedom))
        half = quantile * sd * np.sqrt(1 / len(vertices) + (grid - centre) ** 2 / spread)
        reach = quantile * float(sd) / spread**0.5
        interval = Interval(lo=exponent - reach, hi=exponent + reach)
    return PowerLaw(
        quantity=quantity,
        coefficient=float(np.exp(mean - exponent * centre)),
        exponent=exponent,
        exponent_ci95=interval,
        band=Band(x_G=np.exp(grid), mid_G=np.exp(middle), lo_G=np.exp(middle - half), hi_G=np.exp(middle + half)),
    )
