"""Matched pairs: two models of near-equal loss, the smaller trained on more tokens. What that cost, and when it pays.

This is LLaMA's argument (Touvron et al. 2023, section 1) on measured runs: no law stands between.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.bootstrap import seed_noise
from analysis.laws import get_law
from analysis.lifetime import break_even_demand
from analysis.optimum import outside
from analysis.results import Costs, Fit, MatchedPair, PairSide, Serving, TokenCost
from analysis.table import RunTable

#: Relative noise of a loss where neither seeds nor a fit can tell it.
DEFAULT_NOISE = 0.01
#: A smaller model better than the larger by more than this many tolerances is no match, but plainly the better run.
BETTER_TOLERANCES = 3.0
#: Cells of one budget differ by a batch of tokens here or there.
SAME_BUDGET = 1.02
#: Size of the smaller model of a fitted pair, over the compute-optimal one.
FITTED_SHRINK = 0.5


def loss_noise(table: RunTable, fit: Fit | None) -> float:
    """Relative sd of a final loss: between seeds where they repeat, else of the law's residuals (robustly), else 1 %."""
    noise = seed_noise(table.usable)
    if noise is not None and noise.degrees_of_freedom >= 2:
        return noise.sd
    if fit is None:
        return DEFAULT_NOISE
    return 1.4826 * float(np.median([abs(point.log_residual) for point in fit.points if not point.held_out]))


def matched_pairs(
    table: RunTable, *, noise: float, serving: Serving | None, costs: Costs | None, counting: str = "n_params"
) -> tuple[MatchedPair, ...]:
    """Measured pairs, the most telling first; seeds of one design cell are averaged.

    Two cells match when the smaller model is at most one sd of their difference worse (`noise` * loss, over their seeds).
    The larger must itself be near the frontier, or the comparison would only be with a badly chosen run. For each larger
    cell and each smaller size the smaller cell with the fewest tokens is taken. First come pairs that pay at some demand,
    those with a dearer training to pay back before those without, then the closest losses, then the greatest gain in speed.
    """
    cells = _cells(table, counting)
    pairs: list[tuple[tuple[bool, bool, bool, float], MatchedPair]] = []
    for large in cells.to_dict("records"):
        tolerance = noise * large["loss"] * np.sqrt(1 / cells["runs"] + 1 / large["runs"])
        gap = cells["loss"] - large["loss"]
        cheaper = cells["compute"] <= large["compute"] * SAME_BUDGET
        if (cheaper & (gap < -tolerance)).any():
            continue
        longer = (cells["n"] < large["n"]) & (cells["n_tokens"] > large["n_tokens"])
        matches = cells[longer & (gap <= tolerance) & (gap >= -BETTER_TOLERANCES * tolerance)]
        for index, small in matches.sort_values("n_tokens").drop_duplicates("n").iterrows():
            allowed = float(tolerance[index])
            pair = _pair(_side(small.to_dict(), serving), _side(large, serving), allowed, costs)
            pays, close = pair.break_even_tokens is not None, abs(pair.loss_gap) <= allowed
            costlier = bool(pair.break_even_tokens)
            pairs.append(((pays, costlier, close, pair.speedup_saturated or large["n"] / small["n"]), pair))
    pairs.sort(key=lambda ranked: ranked[0], reverse=True)
    return tuple(pair for _, pair in pairs)


def fitted_pair(fit: Fit, flops: float, train_flops: TokenCost, costs: Costs | None) -> MatchedPair:
    """The law's pair at a budget: its compute-optimal model, and one of half the size trained on to the same loss."""
    law = get_law(fit.law)
    params = law.as_vector(fit.params)
    n_large, d_large = (float(x) for x in law.compute_optimum(params, flops, train_flops.slope, train_flops.exponent))
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
    pair = _pair(sides[0], sides[1], 0.0, costs)
    said = [
        f"the {side.name} model: {words}"
        for side in sides
        for words in outside(fit.fitted_range, side.n_params, side.n_tokens)
    ]
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
    speed = usable.groupby("n")["tokens_per_second"].median()
    cells["training_seconds"] = cells["n_tokens"] / cells["n"].map(speed)
    several = cells["runs"] > 1
    cells.loc[several, "name"] = [
        f"{name} (mean of {runs} seeds)"
        for name, runs in zip(cells["name"][several], cells["runs"][several], strict=True)
    ]
    # Without FLOPs, N D orders runs as 6 N D would.
    cells["compute"] = cells["flops"].fillna(cells["n"] * cells["n_tokens"])
    return cells


def _side(cell: dict[Hashable, Any], serving: Serving | None) -> PairSide:
    def known(name: str) -> float | None:
        value = float(cell[name])
        return value if np.isfinite(value) else None

    decode, prefill = known("decode_tokens_per_second"), known("prefill_tokens_per_second")
    serve = None
    if serving is not None and decode and prefill:
        serve = serving.threads * (serving.prompt_share / prefill + (1 - serving.prompt_share) / decode)
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


def _pair(small: PairSide, large: PairSide, tolerance: float, costs: Costs | None) -> MatchedPair:
    def ratio(name: str) -> float | None:
        above, below = getattr(small, name), getattr(large, name)
        return above / below if above and below else None

    break_even = None
    if small.serve_seconds_per_token and large.serve_seconds_per_token and small.train_seconds and large.train_seconds:
        # Measured on both sides: no fit over sizes stands between.
        saved = large.serve_seconds_per_token - small.serve_seconds_per_token
        extra = small.train_seconds - large.train_seconds
        break_even = max(0.0, extra) / saved if saved > 0 else None
    elif costs is not None and costs.source == "flops":
        break_even = break_even_demand(costs, (small.n_params, small.n_tokens), (large.n_params, large.n_tokens))
    return MatchedPair(
        kind="measured",
        small=small,
        large=large,
        loss_gap=small.loss - large.loss,
        tolerance=tolerance,
        train_flops_ratio=ratio("train_flops"),
        train_seconds_ratio=ratio("train_seconds"),
        speedup_batch_1=ratio("decode_tokens_per_second_batch_1"),
        speedup_saturated=ratio("decode_tokens_per_second_saturated"),
        break_even_tokens=break_even,
        extrapolated=(),
    )
