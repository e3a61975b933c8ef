"""What a token costs to train on and to serve, as functions of N: counted in FLOPs, measured in seconds, or either in dollars.

No price, peak or utilisation is ever assumed: `Prices` holds what was named, and `Costs.used` lists what went in.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import pandas as pd

from analysis.decisions.serving import affine_cost, phase_cost
from analysis.results import Array, Costs, Serving, TokenCost
from analysis.results.costs import Bend
from analysis.runs.table import RunTable
from llama.errors import UserError

MIN_SIZES = 2
#: A forward pass over forward and backward: 2 N of 6 N (Sardana et al. 2024, equation 2).
FORWARD_SHARE = 1 / 3
#: Powers of N by which the share that a count leaves out may fall: 1/3 for attention over width, 2/3 for embeddings over layers
#: whose width goes as the cube root of N.
FALLS = (1 / 3, 5 / 12, 1 / 2, 7 / 12, 2 / 3)
#: FLOPs within this of 6 N are 6 N.
BY_RULE = 1e-3
#: Options that only counted FLOPs have a use for.
COUNTED_BY = ("peak_flops", "serving_peak_flops", "train_utilisation", "prefill_utilisation", "decode_utilisation")


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices, peaks and utilisations as they were named; None where nothing was said."""

    price_per_hour: float | None = None
    """USD for an hour of one device (a GPU, or a core where costs are measured on a CPU)."""
    serving_price_per_hour: float | None = None
    """Of a device that serves; None: as in training."""
    peak_flops: float | None = None
    """FLOP/s of a training device at its best, in the precision that it trains in."""
    serving_peak_flops: float | None = None
    """None: as in training."""
    train_utilisation: float | None = None
    prefill_utilisation: float | None = None
    decode_utilisation: float | None = None
    """Share of the peak that is reached (MFU), each in its own phase: decoding reaches a few per cent of it."""
    quantisation: float | None = None
    """Multiplier on every serving cost: 0.5 where a quantised model serves at half the cost."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is None:
                continue
            name = option_name(option.name)
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"{name} is {value:g}; it must be above 0 and finite")
            if option.name == "quantisation" and value > 1:
                raise UserError(
                    f"{name} is {value:g}; it multiplies what serving costs, so it is at most 1: 0.5 where a quantised model "
                    "serves at half the cost (it is no number of bits)"
                )
            if option.name.endswith("_utilisation") and value > 1:
                raise UserError(f"{name} is {value:g}; it is a share of the peak, above 0 and at most 1")

    @property
    def named(self) -> dict[str, float]:
        """Those that were named."""
        return {
            option.name: getattr(self, option.name) for option in fields(self) if getattr(self, option.name) is not None
        }

    def need(self, names: tuple[str, ...], why: str) -> None:
        """Refuse where one of `names` was not named."""
        missing = [option_name(name) for name in names if getattr(self, name) is None]
        if missing:
            raise UserError(
                f"{why} needs {' and '.join(missing)}: nothing is assumed for {'it' if len(missing) == 1 else 'them'}"
            )


def option_name(field: str) -> str:
    """How the command spells a field: --price-per-hour."""
    return "--" + field.replace("_", "-")


def training_flops(table: RunTable, *, counting: str = "n_params") -> TokenCost:
    """Training FLOPs a token through the table's own counts, or 6 N of all parameters where it has none.

    FLOPs of a token over N go to a constant as models grow: embeddings and attention, which a count may leave out or pay no
    FLOPs for, are a share that falls as a power of N, its cube root at the slowest (attention over width). So the form is
    level N (1 + share N^-falls), which goes on beyond the largest size where a power of N drifts off. The nearest power over
    the sizes stands beside it for closed forms. A ladder's own count goes in steps (heads, depth): `max_rel_error` says by
    how much.
    """
    usable = table.usable
    counted = usable.dropna(subset=["flops", counting])
    per_token = (counted["flops"] / counted["n_tokens"]).groupby(counted[counting]).median()
    source = "through the table's own counts"
    if len(per_token) < MIN_SIZES:
        counted = usable.dropna(subset=["n_params", counting])
        per_token = (6.0 * counted["n_params"]).groupby(counted[counting]).median()
        source = "6 FLOPs for each of all parameters, a named rule, since the table has no FLOPs of its own"
        if counting == "n_params" or len(per_token) < MIN_SIZES:
            return flops_rule(6.0, "6 N FLOPs a token: a named rule, since the table has no FLOPs of its own")
    sizes, measured = per_token.index.to_numpy(dtype=np.float64), per_token.to_numpy(dtype=np.float64)
    if np.abs(measured / (6.0 * sizes) - 1).max() < BY_RULE:
        return replace(flops_rule(6.0, f"6 N FLOPs a token, {source}"), n_params_G=sizes, measured_G=measured)
    log_n = np.log(sizes) - np.log(sizes).mean()
    exponent = float(log_n @ np.log(measured) / (log_n @ log_n))
    slope = float(np.exp((np.log(measured) - exponent * np.log(sizes)).mean()))
    cost = TokenCost(
        unit="FLOPs",
        intercept=0.0,
        slope=slope,
        exponent=exponent,
        source="flops",
        rule="",
        max_rel_error=0.0,
        n_params_G=sizes,
        measured_G=measured,
        bend=_bend(sizes, measured / slope),
    )
    error = float(np.abs(cost(sizes) / measured - 1).max())
    formula = f"{slope:.3g} N^{exponent:.3f}"
    if cost.bend is not None:
        level, share, falls, side = cost.bend
        formula = f"{level * slope:.3g} N (1 + {share:.3g} N^-{falls:.2f})" + ("" if side > 0 else "^-1")
    return replace(cost, rule=f"{formula} FLOPs a token, {source} (within {error:.1%})", max_rel_error=error)


def _bend(sizes: Array, cost: Array) -> Bend | None:
    """The bent line of the least squared relative error; None where no share that falls with N fits."""
    found: list[tuple[float, Bend]] = []
    sides: tuple[Literal[1, -1], ...] = (1, -1)
    for side in sides:
        ratio = (cost / sizes) ** side
        for falls in FALLS:
            # ratio = level (1 + share N^-falls), each size's error relative to its own.
            columns = np.stack([1 / ratio, (sizes / sizes[0]) ** -falls / ratio], axis=1)
            level, part = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)[0]
            if level > 0 and part >= 0:
                bend = Bend(float(level**side), float(part / level * sizes[0] ** falls), falls, side)
                found.append((float(((bend(sizes) / cost - 1) ** 2).sum()), bend))
    return min(found, key=lambda entry: entry[0])[1] if found else None


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
        slope=train.slope * FORWARD_SHARE,
        rule="a forward pass: a third of the training FLOPs a token",
        measured_G=train.measured_G * FORWARD_SHARE,
    )
    return Costs(unit="FLOPs", source="flops", train=train, serve=serve)


def priced_flops(train: TokenCost, prices: Prices, *, prompt_share: float | None) -> Costs:
    """Both costs in dollars: FLOPs over what a dollar of device time delivers of them.

    This is Sardana et al.'s cost with D_inf replaced by D_eff = [c_inf (D_in/U_in + D_out/U_out)] / (c_tr/U_tr), c the price
    of a FLOP at peak and U the utilisation, times the dollars that a training FLOP costs.

    Args:
        train: FLOPs of a training token.
        prices: with a price, a peak and the training utilisation; with both serving utilisations where something is served.
        prompt_share: share of served tokens that is prompt; None: nothing is served.

    Raises:
        UserError: names what is missing.
    """
    prices.need(("price_per_hour", "peak_flops", "train_utilisation"), "a cost in dollars")
    assert prices.price_per_hour
    assert prices.peak_flops
    assert prices.train_utilisation
    train_usd = prices.price_per_hour / 3600 / prices.peak_flops / prices.train_utilisation
    priced = _scaled(train, train_usd, "USD", f"at {train_usd:.3g} USD a FLOP")
    free = replace(priced, slope=0.0, rule="nothing is served", measured_G=0.0 * train.measured_G)
    if prompt_share is None:
        return Costs(
            unit="USD", source="flops", train=priced, serve=free, train_usd_per_flop=train_usd, used=prices.named
        )
    wanted = [
        name
        for name, share in (("prefill_utilisation", prompt_share), ("decode_utilisation", 1 - prompt_share))
        if share > 0
    ]
    prices.need(tuple(wanted), "serving in dollars")
    serving_price = prices.serving_price_per_hour or prices.price_per_hour
    serving_peak = prices.serving_peak_flops or prices.peak_flops
    forward = flops_costs(train).serve
    phases = []
    for utilisation in (prices.prefill_utilisation, prices.decode_utilisation):
        if utilisation is None:
            phases.append(free)
            continue
        usd = serving_price / 3600 / serving_peak / utilisation * (prices.quantisation or 1.0)
        phases.append(_scaled(forward, usd, "USD", f"at {usd:.3g} USD a FLOP"))
    prompt, output = phases
    return Costs(
        unit="USD",
        source="flops",
        train=priced,
        serve=mix(prompt, output, prompt_share),
        prompt=prompt,
        output=output,
        prompt_share=prompt_share,
        train_usd_per_flop=train_usd,
        used={**prices.named, "prompt_share": prompt_share},
    )


def mix(prompt: TokenCost, output: TokenCost, prompt_share: float) -> TokenCost:
    """Cost of a served token of which `prompt_share` is prompt and the rest output; both of one unit and power of N."""
    if prompt_share in (0.0, 1.0):
        return prompt if prompt_share else output
    rest = 1 - prompt_share
    measured_G = prompt_share * prompt.measured_G + rest * output.measured_G
    mixed = replace(
        output,
        intercept=prompt_share * prompt.intercept + rest * output.intercept,
        slope=prompt_share * prompt.slope + rest * output.slope,
        rule=f"{prompt_share:.0%} prompt ({prompt.rule}), {rest:.0%} output ({output.rule})",
        measured_G=measured_G,
    )
    error = float(np.abs(mixed(mixed.n_params_G) / measured_G - 1).max()) if len(measured_G) else 0.0
    return replace(mixed, max_rel_error=error)


def measured_costs(
    table: RunTable, serving: Serving, *, counting: str = "n_params", prices: Prices | None = None
) -> Costs:
    """Both costs from measured speeds: training tokens a second of the runs, and `serving`.

    Args:
        table: with `tokens_per_second` of at least two sizes.
        serving: of the same device.
        counting: the column that N is.
        prices: of one core (or GPU) for an hour, and a multiplier on serving; without a price costs stay in seconds.

    Raises:
        UserError: training speed is unknown, or of another kind of device than serving.
    """
    prices = prices or Prices()
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
    train = affine_cost(
        speed.index.to_numpy(dtype=np.float64),
        1 / speed.to_numpy(dtype=np.float64),
        unit=serving.per_token.unit,
        rule=f"measured: each size's median training tokens a {serving.per_token.unit.removesuffix('s')}",
    )
    phases = [phase_cost(serving, "prefill"), phase_cost(serving, "decode")]
    if prices.quantisation is not None:
        why = f"times {prices.quantisation:g} for quantisation"
        phases = [_scaled(cost, prices.quantisation, cost.unit, why) for cost in phases]
    used = {"prompt_share": serving.prompt_share}
    if prices.quantisation is not None:
        used["quantisation"] = prices.quantisation
    if prices.price_per_hour is not None:
        serving_price = prices.serving_price_per_hour or prices.price_per_hour
        train = _per_hour(train, prices.price_per_hour)
        phases = [_per_hour(cost, serving_price) for cost in phases]
        used |= {"price_per_hour": prices.price_per_hour, "serving_price_per_hour": serving_price}
    prompt, output = phases
    return Costs(
        unit=train.unit,
        source="measured",
        train=train,
        serve=mix(prompt, output, serving.prompt_share),
        prompt=prompt,
        output=output,
        prompt_share=serving.prompt_share,
        used=used,
    )


def decide_costs(
    table: RunTable,
    *,
    train_flops: TokenCost,
    serving: Serving | None,
    prices: Prices,
    source: Literal["auto", "flops", "measured"] = "auto",
    counting: str = "n_params",
    serves: bool = True,
    prompt_share: float | None = None,
) -> Costs:
    """The costs that a decision weighs: measured where the runs were measured, else FLOPs, either in dollars by `prices`.

    Args:
        train_flops: of a training token, in `counting`.
        serving: measured in `counting`, its prompt share already the one asked for; None where nothing was measured.
        source: auto takes measured costs where there are some and no peak was named to count FLOPs by.
        serves: whether there is a demand, without which serving needs no utilisation.
        prompt_share: share of served tokens that is prompt; None: not said.

    Raises:
        UserError: names the option that is missing, or that has no use here.
    """
    counted_by = [name for name in COUNTED_BY if name in prices.named]
    if source == "measured" or (source == "auto" and serving is not None and not counted_by):
        if serving is None:
            raise UserError(f"{table.source} has no measured inference cost: name --costs flops, or measure it first")
        if counted_by:
            raise UserError(
                f"{option_name(counted_by[0])} counts FLOPs, but costs were asked for as measured: leave out one of the two"
            )
        if prices.serving_price_per_hour is not None:
            prices.need(("price_per_hour",), "a cost in dollars")
        return measured_costs(table, serving, counting=counting, prices=prices)
    if "price_per_hour" in prices.named or "serving_price_per_hour" in prices.named or counted_by:
        if serves and prompt_share is None:
            raise UserError(
                "a demand in dollars needs --prompt-share: a prompt token and an output token don't cost the same"
            )
        return priced_flops(train_flops, prices, prompt_share=prompt_share if serves else None)
    costs = flops_costs(train_flops)
    if prices.quantisation is None:
        return costs
    serve = _scaled(costs.serve, prices.quantisation, "FLOPs", f"times {prices.quantisation:g} for quantisation")
    return replace(costs, serve=serve, used={"quantisation": prices.quantisation})


def device_seconds_per_token(runs: pd.DataFrame) -> pd.Series:
    """What a training token took of the device: wall time by the share of a GPU, or by the cores on a CPU."""
    devices = runs["gpu_share"].where(runs["gpu_share"] > 0, runs["training_threads"])
    return devices / runs["tokens_per_second"]


def training_unit(runs: pd.DataFrame) -> str | None:
    """GPU-seconds or core-seconds; None where some runs had a GPU and others not."""
    on_gpu = runs["gpu_share"] > 0
    return "GPU-seconds" if on_gpu.all() and len(runs) else None if on_gpu.any() else "core-seconds"


def _per_hour(cost: TokenCost, usd_per_hour: float) -> TokenCost:
    return _scaled(cost, usd_per_hour / 3600, "USD", f"{usd_per_hour:g} USD an hour")


def _scaled(cost: TokenCost, factor: float, unit: str, why: str) -> TokenCost:
    return replace(
        cost,
        unit=unit,
        intercept=cost.intercept * factor,
        slope=cost.slope * factor,
        rule=f"{cost.rule}; {why}",
        measured_G=cost.measured_G * factor,
    )
