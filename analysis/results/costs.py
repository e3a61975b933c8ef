"""What a token costs to train on and to serve, over sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from analysis.results.basic import Array


class Bend(NamedTuple):
    """How FLOPs a token come to go as N where embeddings and attention thin out: level N (1 + share N^-falls)^side."""

    level: float
    share: float
    falls: float
    side: Literal[1, -1]
    """-1 where N counts what costs no FLOPs, so that they are fewer than `level` N at small sizes."""

    def __call__(self, n_params: Array | float) -> Array:
        return np.asarray(self.level * n_params * (1 + self.share * np.power(n_params, -self.falls)) ** self.side)

    def power(self, n_params: Array | float) -> Array:
        """The local power of N."""
        rest = self.share * np.power(n_params, -self.falls)
        return np.asarray(1 - self.side * self.falls * rest / (1 + rest))


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """Cost of one token as a function of N: intercept + slope * N^exponent, or slope * bend(N) where it bends."""

    unit: str
    """FLOPs, core-seconds, GPU-seconds or USD, a token."""
    intercept: float
    """t0: what a token costs at any size (launch overhead), in `unit`."""
    slope: float
    exponent: float
    """1 but for FLOPs that follow the table's own count. Where there is a `bend`: of the power of N nearest to it over the
    measured sizes, which closed forms take."""
    source: Literal["measured", "flops"]
    rule: str
    """How it came about, in words: for captions."""
    max_rel_error: float
    """Largest |fit/measured - 1| over the sizes it was fitted to; 0 for a rule."""
    n_params_G: Array
    measured_G: Array
    """The sizes and costs it was fitted to, ascending in N; empty for a rule."""
    bend: Bend | None = None
    """In units of `slope`."""

    def __call__(self, n_params: Array | float) -> Array:
        by_size = np.power(n_params, self.exponent) if self.bend is None else self.bend(n_params)
        return np.asarray(self.intercept + self.slope * by_size, dtype=np.float64)

    def tangent(self, n_params: Array | float) -> tuple[Array, Array]:
        """(slope, exponent) of the power of N that costs the same at `n_params` and grows alike there; no intercept."""
        exponent = np.full(np.shape(n_params), self.exponent) if self.bend is None else self.bend.power(n_params)
        return np.asarray(self(n_params) / np.power(n_params, exponent)), np.asarray(exponent)


@dataclass(frozen=True, kw_only=True)
class BatchCost:
    """Measured seconds a token over sizes at one batch: t(N) = t0_seconds + seconds_per_param * N."""

    phase: Literal["decode", "prefill"]
    batch: int | None
    """None: each size at the batch where it saturates."""
    t0_seconds: float
    seconds_per_param: float
    max_rel_error: float
    n_params_G: Array
    seconds_per_token_G: Array


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Measured serving cost of the table's sizes, on one device."""

    device: str
    dtype: str
    threads: int
    prompt_tokens: int
    output_tokens: int
    """Of a measured request."""
    prompt_share: float
    """Share of served tokens that are prompt (prefill); the rest are output (decode)."""
    batches: tuple[BatchCost, ...]
    """Decode and prefill by batch, then at saturation (`batch` None)."""
    per_token: TokenCost
    """Core-seconds or GPU-seconds a served token at saturation: prompt_share of prefill and the rest of decode."""
    left_out: tuple[str, ...]
    """Sizes that were measured on another device or by another protocol, in words."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What training and serving a token cost, in one unit."""

    unit: str
    """FLOPs, core-seconds, GPU-seconds or USD."""
    source: Literal["measured", "flops"]
    """`flops`: counted, and priced where the unit is USD."""
    train: TokenCost
    serve: TokenCost
    """Of a served token: prompt and output mixed by `prompt_share`."""
    prompt: TokenCost | None = None
    output: TokenCost | None = None
    """Of a prompt token (prefill) and of an output token (decode); None where the two cost the same or aren't told apart."""
    prompt_share: float | None = None
    """None where the two cost the same or aren't told apart."""
    train_usd_per_flop: float | None = None
    """What a FLOP of training costs; None where it isn't counted in dollars and FLOPs."""
    used: dict[str, float] = field(default_factory=dict)
    """Every price, peak, utilisation and multiplier that went in, by option name."""
