"""Approach 2 (Hoffmann et al. 2022, section 3.2): a parabola in log N a declared budget, power laws through their vertices.

Parabolas are biased when alpha != beta or a bowl is wide or off-centre, so the surface is fitted as well; here stands what
the bowls say by themselves.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from analysis.results import Array, Band, BowlPoint, Interval, Isoflop, IsoflopVertex, PowerLaw, TokenCost
from analysis.table import RunTable

MIN_SIZES = 3
#: Points of a power law's curve, and how far past the vertices it is drawn.
GRID = 60
BEYOND = 2.0


def isoflop(table: RunTable, train_flops: TokenCost, *, counting: str = "n_params") -> Isoflop | None:
    """Vertices and power laws; None where no run declares a budget. Runs are grouped by `flops_budget`, never by FLOPs."""
    declared = table.usable.dropna(subset=["flops_budget", counting])
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
    by_size = runs.groupby(counting, sort=True)
    sizes, n_tokens, loss, n_runs = (
        values.to_numpy(dtype=np.float64)
        for values in (by_size[counting].first(), by_size["n_tokens"].mean(), by_size["loss"].mean(), by_size.size())
    )
    points = tuple(
        BowlPoint(n_params=float(n), n_tokens=float(d), loss=float(mean), n_runs=int(count))
        for n, d, mean, count in zip(sizes, n_tokens, loss, n_runs, strict=True)
    )
    log_n = np.log(sizes)
    centre = float(log_n.mean())
    if len(points) < MIN_SIZES:
        return IsoflopVertex(
            flops_budget=budget,
            points=points,
            ln_n_centre=centre,
            coefficients=None,
            n_opt=None,
            d_opt=None,
            loss=None,
            flag=f"{len(points)} of the {MIN_SIZES} sizes that a parabola needs",
        )
    # A cell's mean over seeds counts by its runs.
    c2, c1, c0 = np.polyfit(log_n - centre, loss, 2, w=np.sqrt(n_runs))
    flag = None
    n_opt = d_opt = least = None
    if c2 <= 0:
        flag = "the bowl does not curve upwards"
    else:
        x = -c1 / (2 * c2)
        n_opt = float(np.exp(x + centre))
        d_opt = budget / float(train_flops(n_opt))
        least = float(c0 - c1**2 / (4 * c2))
        if not log_n[0] <= x + centre <= log_n[-1]:
            flag = "the vertex lies outside the sizes"
        elif int(np.argmin(loss)) in (0, len(loss) - 1):
            flag = f"the least loss is at the {'smallest' if np.argmin(loss) == 0 else 'largest'} size"
    return IsoflopVertex(
        flops_budget=budget,
        points=points,
        ln_n_centre=centre,
        coefficients=(float(c0), float(c1), float(c2)),
        n_opt=n_opt,
        d_opt=d_opt,
        loss=least,
        flag=flag,
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
