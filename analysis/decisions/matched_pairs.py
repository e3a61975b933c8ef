"""Matched pairs: two models of near-equal loss, the smaller trained on more tokens. What that cost, and when it pays.

This is LLaMA's argument (Touvron et al. 2023, section 1) on measured runs: no law stands between.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.decisions.costs import device_seconds_per_token, training_unit
from analysis.decisions.lifetime import break_even_demand
from analysis.decisions.serving import describe, protocol
from analysis.fitting.bootstrap import seed_noise
from analysis.laws import get_law
from analysis.optima.optimum import compute_optimum, outside
from analysis.results import Costs, Fit, Interval, MatchedPair, PairSide, Serving, TokenCost
from analysis.runs.table import RunTable
from llama.records import InferenceCost

#: Relative noise of a loss where neither seeds nor a fit can tell it.
DEFAULT_NOISE = 0.01
#: A smaller model better than the larger by more than this many tolerances is no match, but plainly the better run.
BETTER_TOLERANCES = 3.0
#: Cells of one budget differ by a batch of tokens here or there.
SAME_BUDGET = 1.02
#: Size of the smaller model of a fitted pair, over the compute-optimal one.
FITTED_SHRINK = 0.5


class LossNoise(NamedTuple):
    """Relative sd of a final loss, and what tells it."""

    sd: float
    source: Literal["seeds", "law", "assumed"]


def loss_noise(table: RunTable, fit: Fit | None) -> LossNoise:
    """Between seeds where they repeat, else of the law's residuals (robustly), which hold its misfit too, else 1 %."""
    noise = seed_noise(table.usable)
    if noise is not None and noise.degrees_of_freedom >= 2:
        return LossNoise(noise.sd, "seeds")
    if fit is None:
        return LossNoise(DEFAULT_NOISE, "assumed")
    sd = 1.4826 * float(np.median([abs(point.log_residual) for point in fit.points if not point.held_out]))
    return LossNoise(sd, "law")


def matched_pairs(
    table: RunTable, *, noise: LossNoise, serving: Serving | None, costs: Costs | None, counting: str = "n_params"
) -> tuple[MatchedPair, ...]:
    """Measured pairs, the most telling first; seeds of one design cell are averaged.

    Two cells match when the smaller model is at most one sd of their difference worse (`noise.sd` * loss, over their seeds).
    The larger must itself be near the frontier, or the comparison would only be with a badly chosen run. For each larger
    cell and each smaller size the smaller cell with the fewest tokens is taken. First come pairs that pay at some demand,
    those with a dearer training to pay back before those without, then the closest losses, then the greatest gain in speed.
    """
    cells = _cells(table, counting)
    pairs: list[tuple[tuple[bool, bool, bool, float], MatchedPair]] = []
    for large in cells.to_dict("records"):
        tolerance = noise.sd * large["loss"] * np.sqrt(1 / cells["runs"] + 1 / large["runs"])
        gap = cells["loss"] - large["loss"]
        cheaper = cells["compute"] <= large["compute"] * SAME_BUDGET
        if (cheaper & (gap < -tolerance)).any():
            continue
        longer = (cells["n"] < large["n"]) & (cells["n_tokens"] > large["n_tokens"])
        matches = cells[longer & (gap <= tolerance) & (gap >= -BETTER_TOLERANCES * tolerance)]
        for index, small in matches.sort_values("n_tokens").drop_duplicates("n").iterrows():
            allowed = float(tolerance[index])
            pair = _compare(small.to_dict(), large, table, serving, allowed, costs)
            pair = replace(pair, tolerance_source=noise.source)
            pays, close = pair.break_even_tokens is not None, abs(pair.loss_gap) <= allowed
            costlier = bool(pair.break_even_tokens)
            pairs.append(((pays, costlier, close, pair.speedup_saturated or large["n"] / small["n"]), pair))
    pairs.sort(key=lambda ranked: ranked[0], reverse=True)
    return tuple(pair for _, pair in pairs)


def fitted_pair(fit: Fit, flops: float, train_flops: TokenCost, costs: Costs | None) -> MatchedPair:
    """The law's pair at a budget: its compute-optimal model, and one of half the size trained on to the same loss."""
    law = get_law(fit.law)
    params = law.as_vector(fit.params)
    n_large, d_large = (float(x) for x in compute_optimum(law, params, flops, train_flops))
    loss = float(law.predict(params, n_large, d_large))
    n_small = FITTED_SHRINK * n_large
    d_small = float(law.tokens_for_loss(params, n_small, loss))
    sides = []
    for name, n, d in (("smaller", n_small, d_small), ("compute-optimal", n_large, d_large)):
        measured = costs is not None and costs.source == "measured" and costs.unit != "USD"
        sides.append(
            PairSide(
                run_id=None,
                name=name,
                n_params=n,
                n_tokens=d,
                loss=loss,
                train_flops=float(train_flops(n)) * d,
                train_seconds=float(costs.train(n)) * d if measured and costs else None,
                decode_tokens_per_second_batch_1=None,
                decode_tokens_per_second_saturated=None,
                serve_seconds_per_token=float(costs.serve(n)) if measured and costs else None,
            )
        )
    pair = _pair(sides[0], sides[1], 0.0, costs, gap=None, spread=None)
    said = [f"the {side.name} model: {words}" for side in sides for words in outside(fit, side.n_params, side.n_tokens)]
    paid = break_even_demand(costs, (n_small, d_small), (n_large, d_large)) if costs is not None else None
    return replace(pair, kind="fitted", extrapolated=tuple(said), break_even_tokens=paid)


def _cells(table: RunTable, counting: str) -> pd.DataFrame:
    usable = table.usable.dropna(subset=[counting]).assign(n=lambda frame: frame[counting])
    cell = np.where(usable["design"] == "", usable["run_id"], usable["design"])
    named = {name: (name, "first") for name in ("run_id", "name", "n", "n_tokens", "flops")}
    means = {
        name: (name, "mean")
        for name in (
            "loss",
            "training_seconds",
            "decode_tokens_per_second_batch_1",
            "decode_tokens_per_second",
            "prefill_tokens_per_second",
        )
    }
    cells = usable.groupby(cell, sort=False).agg(**named, **means, runs=("loss", "size"))
    # One price of training a size: its median speed, not what each run happened to meet.
    by_size = device_seconds_per_token(usable).groupby(usable["n"])
    cells["training_seconds"] = cells["n_tokens"] * cells["n"].map(by_size.median())
    for name, quantile in (("training_p5", 0.05), ("training_p95", 0.95)):
        cells[name] = cells["n"].map(by_size.quantile(quantile) / by_size.median())
    cells["training_unit"] = cells["n"].map({n: training_unit(runs) for n, runs in usable.groupby("n")})
    several = cells["runs"] > 1
    cells.loc[several, "name"] = [
        f"{name} (mean of {runs} seeds)"
        for name, runs in zip(cells["name"][several], cells["runs"][several], strict=True)
    ]
    # Without FLOPs, N D orders runs as 6 N D would.
    cells["compute"] = cells["flops"].fillna(cells["n"] * cells["n_tokens"])
    return cells


def _compare(
    small: dict[Hashable, Any],
    large: dict[Hashable, Any],
    table: RunTable,
    serving: Serving | None,
    tolerance: float,
    costs: Costs | None,
) -> MatchedPair:
    """The pair of two cells; its serving is compared where both were measured by `serving`'s protocol."""
    if small["training_unit"] != large["training_unit"]:
        small, large = ({**cell, "training_seconds": float("nan")} for cell in (small, large))
    records = [table.inference.get(str(cell["run_id"])) for cell in (small, large)]
    otherwise = _measured_otherwise(records)
    gap = otherwise or _why_not_in_time(small, large, records, serving)
    sides = [_side(cell, serving if gap is None else None) for cell in (small, large)]
    spread = None
    if serving is not None and all(side.serve_seconds_per_token and side.train_seconds for side in sides):
        spread = [
            _spread(cell, record, side, serving)
            for cell, record, side in zip((small, large), records, sides, strict=True)
            if record is not None
        ]
    pair = _pair(sides[0], sides[1], tolerance, costs, gap=gap, spread=spread)
    return pair if otherwise is None else replace(pair, speedup_batch_1=None, speedup_saturated=None)


def _measured_otherwise(records: list[InferenceCost | None]) -> str | None:
    """That the two were served on different devices or by different protocols; None where neither or both are known alike."""
    how = [None if record is None else protocol(record) for record in records]
    if how[0] == how[1]:
        return None
    named = ["not recorded" if one is None else describe(one) for one in how]
    return f"their serving was measured differently (the smaller: {named[0]}; the larger: {named[1]})"


def _why_not_in_time(
    small: dict[Hashable, Any], large: dict[Hashable, Any], records: list[InferenceCost | None], serving: Serving | None
) -> str | None:
    """Why measured seconds of training and serving don't meet in a break-even; None where they do."""
    for name, what in (
        ("decode_tokens_per_second", "what either costs to serve was not measured"),
        ("prefill_tokens_per_second", "prompts were not measured"),
    ):
        if not (small[name] > 0 and large[name] > 0):
            return what
    if serving is None or records[0] is None:
        return "on what and for which requests the speeds were measured is not recorded"
    common = (serving.device, serving.dtype, serving.threads, serving.prompt_tokens, serving.output_tokens)
    if protocol(records[0]) != common:
        return (
            f"their serving was measured on {describe(protocol(records[0]))}, that of most sizes on {describe(common)}"
        )
    if not small["training_unit"] == large["training_unit"] == serving.per_token.unit:
        return "they were trained on another kind of device than they were served on"
    return None


def _side(cell: dict[Hashable, Any], serving: Serving | None) -> PairSide:
    def known(name: str) -> float | None:
        value = float(cell[name])
        return value if np.isfinite(value) else None

    decode, prefill = known("decode_tokens_per_second"), known("prefill_tokens_per_second")
    serve = None
    if serving is not None and decode and prefill:
        counted = serving.threads if serving.per_token.unit == "core-seconds" else 1
        serve = counted * (serving.prompt_share / prefill + (1 - serving.prompt_share) / decode)
    return PairSide(
        run_id=str(cell["run_id"]),
        name=str(cell["name"]),
        n_params=float(cell["n"]),
        n_tokens=float(cell["n_tokens"]),
        loss=float(cell["loss"]),
        train_flops=known("flops"),
        train_seconds=known("training_seconds"),
        decode_tokens_per_second_batch_1=known("decode_tokens_per_second_batch_1"),
        decode_tokens_per_second_saturated=decode,
        serve_seconds_per_token=serve,
    )


def _spread(
    cell: dict[Hashable, Any], record: InferenceCost, side: PairSide, serving: Serving
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(p5, p95) of a side's training seconds and of its seconds a served token."""
    assert side.train_seconds is not None
    assert side.serve_seconds_per_token is not None
    point, share = record.saturated, serving.prompt_share
    prompt, output = share / point.prefill_tokens_per_second, (1 - share) / point.decode_tokens_per_second
    served = [
        (prompt * ttft / point.ttft_seconds.median + output * tpot / point.tpot_seconds.median) / (prompt + output)
        for ttft, tpot in (
            (point.ttft_seconds.p5, point.tpot_seconds.p5),
            (point.ttft_seconds.p95, point.tpot_seconds.p95),
        )
    ]
    train, serve = side.train_seconds, side.serve_seconds_per_token
    return (train * cell["training_p5"], train * cell["training_p95"]), (serve * served[0], serve * served[1])


def _break_even(small_train: float, large_train: float, small_serve: float, large_serve: float) -> float:
    """Tokens served at which both cost the same: 0 where the smaller is no dearer to train, infinite where it never pays."""
    saved = large_serve - small_serve
    return max(0.0, small_train - large_train) / saved if saved > 0 else float("inf")


def _break_even_range(
    small: PairSide, large: PairSide, spread: list[tuple[tuple[float, float], tuple[float, float]]]
) -> Interval | None:
    """Each of the four seconds is moved to its p5 and p95 in turn; the shifts of the break-even add in quadrature.

    That takes them for independent. Each way counts its own shifts, so the interval is as skew as the timings are. Of a timing
    the p5 and p95 are those of single requests, wider than its median's: the interval errs on the wide side.
    """
    (small_train, small_serve), (large_train, large_serve) = spread
    at = [small.train_seconds, large.train_seconds, small.serve_seconds_per_token, large.serve_seconds_per_token]
    known = [value for value in at if value is not None]
    middle = _break_even(*known)
    below = above = 0.0
    for index, ends in enumerate((small_train, large_train, small_serve, large_serve)):
        moved = [[*known[:index], end, *known[index + 1 :]] for end in ends]
        shifts = [_break_even(*seconds) - middle for seconds in moved]
        below, above = below + min(0.0, *shifts) ** 2, above + max(0.0, *shifts) ** 2
    if below == above == 0:
        return None
    return Interval(lo=max(0.0, middle - below**0.5), hi=middle + above**0.5)


def _pair(
    small: PairSide,
    large: PairSide,
    tolerance: float,
    costs: Costs | None,
    *,
    gap: str | None,
    spread: list[tuple[tuple[float, float], tuple[float, float]]] | None,
) -> MatchedPair:
    def ratio(name: str) -> float | None:
        above, below = getattr(small, name), getattr(large, name)
        return above / below if above and below else None

    break_even, between = None, None
    if small.serve_seconds_per_token and large.serve_seconds_per_token and small.train_seconds and large.train_seconds:
        # Measured on both sides: no fit over sizes stands between.
        paid = _break_even(
            small.train_seconds, large.train_seconds, small.serve_seconds_per_token, large.serve_seconds_per_token
        )
        break_even = paid if np.isfinite(paid) else None
        between = _break_even_range(small, large, spread) if spread and break_even is not None else None
    elif costs is not None and costs.source == "flops":
        break_even = break_even_demand(costs, (small.n_params, small.n_tokens), (large.n_params, large.n_tokens))
    return MatchedPair(
        kind="measured",
        small=small,
        large=large,
        loss_gap=small.loss - large.loss,
        tolerance=tolerance,
        tolerance_source="law",
        train_flops_ratio=ratio("train_flops"),
        train_seconds_ratio=ratio("train_seconds"),
        speedup_batch_1=ratio("decode_tokens_per_second_batch_1"),
        speedup_saturated=ratio("decode_tokens_per_second_saturated"),
        break_even_tokens=break_even,
        break_even_range=between,
        serving_gap=gap,
        extrapolated=(),
    )
