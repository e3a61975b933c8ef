"""What a token costs to train on and to serve, as functions of N: counted in FLOPs, or measured in seconds or dollars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.results import Costs, Serving, TokenCost
from analysis.serving import affine_cost
from analysis.table import RunTable
from llama.errors import UserError

MIN_SIZES = 2


def training_flops(table: RunTable, *, counting: str = "n_params") -> TokenCost:
    """Training FLOPs a token: slope * N^exponent through the table's own FLOPs; 6 N, by name, where it has none.

    The power of N keeps the closed forms of the compute optimum. A ladder's own count bends a little (heads, attention and
    depth come in steps): `max_rel_error` says by how much.
    """
    counted = table.usable.dropna(subset=["flops", counting])
    per_token = (counted["flops"] / counted["n_tokens"]).groupby(counted[counting]).median()
    if len(per_token) < MIN_SIZES:
        return flops_rule(6.0, "6 N FLOPs a token: a named rule, since the table has no FLOPs of its own")
    sizes, measured = per_token.index.to_numpy(dtype=np.float64), per_token.to_numpy(dtype=np.float64)
    log_n = np.log(sizes) - np.log(sizes).mean()
    exponent = float(log_n @ np.log(measured) / (log_n @ log_n))
    slope = float(np.exp((np.log(measured) - exponent * np.log(sizes)).mean()))
    error = float(np.abs(slope * sizes**exponent / measured - 1).max())
    return TokenCost(
        unit="FLOPs",
        intercept=0.0,
        slope=slope,
        exponent=exponent,
        source="flops",
        rule=f"{slope:.3g} N^{exponent:.3f} FLOPs a token, through the table's own counts (within {error:.1%})",
        max_rel_error=error,
        n_params_G=sizes,
        measured_G=measured,
    )


def flops_rule(slope: float, rule: str) -> TokenCost:
    """slope * N FLOPs a token, by rule."""
    nothing = np.empty(0)
    return TokenCost(
        unit="FLOPs",
        intercept=0.0,
        slope=slope,
        exponent=1.0,
        source="flops",
        rule=rule,
        max_rel_error=0.0,
        n_params_G=nothing,
        measured_G=nothing,
    )


def flops_costs(train: TokenCost) -> Costs:
    """Both costs in FLOPs: a served token is one forward pass, a third of a training token (Sardana et al., equation 2)."""
    serve = replace(
        train,
        slope=train.slope / 3,
        rule="a forward pass: a third of the training FLOPs a token",
        measured_G=train.measured_G / 3,
    )
    return Costs(unit="FLOPs", source="flops", train=train, serve=serve)


def measured_costs(
    table: RunTable, serving: Serving, *, counting: str = "n_params", usd_per_hour: float | None = None
) -> Costs:
    """Both costs from measured speeds: training tokens a second of the runs, and `serving`.

    Args:
        table: with `tokens_per_second` of at least two sizes.
        serving: of the same device.
        counting: the column that N is.
        usd_per_hour: price of one core (or GPU) for an hour; None leaves costs in seconds.

    Raises:
        UserError: training speed is unknown, or of another kind of device than serving, or the price is impossible.
    """
    timed = table.usable.dropna(subset=["tokens_per_second", counting])
    unit = training_unit(timed)
    if len(timed) and unit != serving.per_token.unit:
        raise UserError(
            f"{table.source} was trained in {unit or 'core-seconds and GPU-seconds both'} and served in "
            f"{serving.per_token.unit}: these don't add up to one cost"
        )
    # The median over a size's runs: a run that shared its core with something else doesn't set the price.
    speed = (1 / device_seconds_per_token(timed)).groupby(timed[counting]).median()
    if len(speed) < MIN_SIZES:
        raise UserError(
            f"{table.source} has measured training speed of {len(speed)} sizes; at least {MIN_SIZES} are needed"
        )
    if usd_per_hour is not None and not (np.isfinite(usd_per_hour) and usd_per_hour > 0):
        raise UserError(f"the price is {usd_per_hour} dollars an hour; it must be above 0")
    train = affine_cost(
        speed.index.to_numpy(dtype=np.float64),
        1 / speed.to_numpy(dtype=np.float64),
        unit=serving.per_token.unit,
        rule=f"measured: each size's median training tokens a {serving.per_token.unit.removesuffix('s')}",
    )
    serve = serving.per_token
    if usd_per_hour is not None:
        train, serve = _priced(train, usd_per_hour), _priced(serve, usd_per_hour)
    return Costs(unit=train.unit, source="measured", train=train, serve=serve)


def device_seconds_per_token(runs: pd.DataFrame) -> pd.Series:
    """What a training token took of the device: wall time by the share of a GPU, or by the cores on a CPU."""
    devices = runs["gpu_share"].where(runs["gpu_share"] > 0, runs["training_threads"])
    return devices / runs["tokens_per_second"]


def training_unit(runs: pd.DataFrame) -> str | None:
    """GPU-seconds or core-seconds; None where some runs had a GPU and others not."""
    on_gpu = runs["gpu_share"] > 0
    return "GPU-seconds" if on_gpu.all() and len(runs) else None if on_gpu.any() else "core-seconds"


def _priced(cost: TokenCost, usd_per_hour: float) -> TokenCost:
    usd = usd_per_hour / 3600
    return replace(
        cost,
        unit="USD",
        intercept=cost.intercept * usd,
        slope=cost.slope * usd,
        rule=f"{cost.rule}; {usd_per_hour:g} USD an hour",
        measured_G=cost.measured_G * usd,
    )
