"""What measured points say without a law: the frontier, and isoFLOP bowls with their vertices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.results.basic import Band, Interval


@dataclass(frozen=True, kw_only=True)
class FrontierPoint:
    """A run that no cheaper run beats: the lower envelope of loss against FLOPs."""

    run_id: str
    name: str
    n_params: float
    n_tokens: float
    flops: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class BowlPoint:
    """One size at one budget; seeds of one cell are averaged."""

    n_params: float
    n_tokens: float
    loss: float
    n_runs: int


@dataclass(frozen=True, kw_only=True)
class CubicVertex:
    """The least of a cubic through the same bowl: a check on the parabola, which is biased where a bowl is lopsided."""

    coefficients: tuple[float, float, float, float]
    """c0 + c1 x + c2 x^2 + c3 x^3 in the parabola's x."""
    n_opt: float
    d_opt: float
    loss: float
    ratio: float
    """n_opt over the parabola's."""
    differs: bool
    """Whether the two lie further apart than the stated factor (`analysis.optima.isoflop.CUBIC_DIFFERS`)."""


@dataclass(frozen=True, kw_only=True)
class IsoflopVertex:
    """The bowl of one declared budget: loss as a quadratic in x = ln N - ln_n_centre: c0 + c1 x + c2 x^2."""

    flops_budget: float
    points: tuple[BowlPoint, ...]
    """By N, ascending."""
    ln_n_centre: float
    coefficients: tuple[float, float, float] | None
    """(c0, c1, c2); None when the bowl has too few sizes for a parabola."""
    n_opt: float | None
    """N at the vertex; None where there is none (`flag` says why)."""
    d_opt: float | None
    """Tokens at the vertex, by the budget over the FLOPs a token at n_opt."""
    loss: float | None
    """The parabola's loss at the vertex."""
    flag: str | None
    """Why the vertex is not trusted: the least loss at the grid's edge, a vertex outside the sizes, no upward curve, too few
    sizes. None: the vertex enters the power laws."""
    cubic: CubicVertex | None = None
    """None with fewer than five sizes, or where the cubic has no minimum among them."""


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = coefficient * C^exponent through the unflagged vertices, least squares in logs."""

    quantity: Literal["n_opt", "d_opt"]
    coefficient: float
    exponent: float
    exponent_ci95: Interval | None
    """By Student's t over the vertices (needs three); None with two."""
    band: Band
    """y over a grid of C in FLOPs, a little wider than the vertices."""


@dataclass(frozen=True, kw_only=True)
class Isoflop:
    """Approach 2: bowls by declared budget and the power laws through their vertices."""

    vertices: tuple[IsoflopVertex, ...]
    """By budget, ascending, flagged ones too."""
    n_opt: PowerLaw | None
    d_opt: PowerLaw | None
    """None with fewer than two unflagged vertices."""
    skipped: tuple[str, ...]
    """Budgets that gave no vertex, each with its reason."""
