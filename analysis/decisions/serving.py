"""Measured serving cost over sizes: seconds a token t(N) = t0 + c N, where t0 is launch overhead that hides size at small N."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np

from analysis.results import Array, BatchCost, Serving, TokenCost
from analysis.runs.table import RunTable
from analysis.words import count
from llama.errors import UserError
from llama.records import InferenceCost, InferencePoint

MIN_SIZES = 2
#: Device, dtype, threads, prompt tokens, output tokens.
Protocol = tuple[str, str, int, int, int]


def measure_serving(table: RunTable, *, counting: str = "n_params", prompt_share: float | None = None) -> Serving:
    """The table's inference measurements as costs a token.

    Args:
        table: with `inference` of at least two sizes.
        counting: the column that N is.
        prompt_share: share of served tokens that are prompt; None takes the share in the measured requests.

    Raises:
        UserError: nothing was measured, or too few sizes, or an impossible share.
    """
    if prompt_share is not None and not 0 <= prompt_share <= 1:
        raise UserError(
            f"the prompt's share of served tokens (--prompt-share) is {prompt_share}; it must be from 0 to 1"
        )
    by_size, left_out = _by_size(table, counting)
    if len(by_size) < MIN_SIZES:
        raise UserError(
            f"{table.source} has measured inference cost of {len(by_size)} sizes; at least {MIN_SIZES} are needed"
        )
    sizes = np.array(sorted(by_size))
    costs = [by_size[size] for size in sizes]
    first = costs[0]
    if prompt_share is None:
        prompt_share = first.prompt_tokens / (first.prompt_tokens + first.output_tokens)
    batches: list[BatchCost] = []
    shared = set.intersection(*({point.batch for point in cost.points} for cost in costs))
    for batch in sorted(shared):
        points = [next(point for point in cost.points if point.batch == batch) for cost in costs]
        batches += _phases(points, sizes, batch, costs)
    saturated = [cost.saturated for cost in costs]
    batches += _phases(saturated, sizes, None, costs)
    seconds = devices(first) * np.array(
        [
            prompt_share / point.prefill_tokens_per_second + (1 - prompt_share) / point.decode_tokens_per_second
            for point in saturated
        ]
    )
    return Serving(
        device=first.device,
        dtype=first.dtype,
        threads=first.threads,
        prompt_tokens=first.prompt_tokens,
        output_tokens=first.output_tokens,
        prompt_share=prompt_share,
        batches=tuple(batches),
        per_token=affine_cost(
            sizes,
            seconds,
            unit=seconds_unit(first.device),
            rule=f"measured on {first.device}, {first.dtype}, at each size's saturating batch; {prompt_share:.0%} prompt",
        ),
        left_out=left_out,
    )


def phase_cost(serving: Serving, phase: Literal["decode", "prefill"]) -> TokenCost:
    """Cost of a prompt token (prefill) or of an output token (decode) alone, at each size's saturating batch."""
    measured = next(batch for batch in serving.batches if batch.phase == phase and batch.batch is None)
    return TokenCost(
        unit=serving.per_token.unit,
        intercept=measured.t0_seconds,
        slope=measured.seconds_per_param,
        exponent=1.0,
        source="measured",
        rule=f"{phase} measured on {serving.device}, {serving.dtype}, at each size's saturating batch",
        max_rel_error=measured.max_rel_error,
        n_params_G=measured.n_params_G,
        measured_G=measured.seconds_per_token_G,
    )


def decode_seconds(serving: Serving) -> tuple[float, float] | None:
    """(t0, seconds a parameter) of a decoded token at batch 1, in wall time: its TPOT. None where batch 1 wasn't measured."""
    alone = [batch for batch in serving.batches if batch.phase == "decode" and batch.batch == 1]
    if not alone:
        return None
    # Times of CPUs are summed over threads.
    threads = serving.threads if serving.per_token.unit == "core-seconds" else 1
    return alone[0].t0_seconds / threads, alone[0].seconds_per_param / threads


def protocol(cost: InferenceCost) -> Protocol:
    """On what and how this was measured: only figures of one protocol compare."""
    return cost.device, cost.dtype, cost.threads, cost.prompt_tokens, cost.output_tokens


def describe(measured: Protocol) -> str:
    device, dtype, threads, prompt_tokens, output_tokens = measured
    return (
        f"{device}, {dtype}, {threads} thread{'' if threads == 1 else 's'}, {prompt_tokens} prompt and {output_tokens} output "
        "tokens"
    )


def devices(cost: InferenceCost) -> int:
    """Devices whose seconds a served token's time counts: the threads of a CPU, or one GPU."""
    return cost.threads if seconds_unit(cost.device) == "core-seconds" else 1


def _by_size(table: RunTable, counting: str) -> tuple[dict[float, InferenceCost], tuple[str, ...]]:
    """One measurement a size, by the protocol that most sizes share, and the sizes that this leaves out, in words."""
    size_of = dict(zip(table.frame["run_id"], table.frame[counting], strict=True))
    known = {run_id: cost for run_id, cost in table.inference.items() if cost.points and size_of.get(run_id, 0) > 0}
    if not known:
        return {}, ()
    measured = {(float(size_of[run_id]), protocol(cost)): cost for run_id, cost in known.items()}
    common = Counter(how for _, how in measured).most_common(1)[0][0]
    by_size = {size: cost for (size, how), cost in measured.items() if how == common}
    left_out = tuple(
        f"the serving of {count(size)} parameters was measured on {describe(how)}, that of most sizes on {describe(common)}: "
        "it is left out"
        for size, how in sorted(measured)
        if how != common
    )
    return by_size, left_out


def seconds_unit(device: str) -> str:
    """What a second of this device is called; times of CPUs are summed over threads."""
    return "GPU-seconds" if device.upper().startswith(("NVIDIA", "AMD INSTINCT", "TESLA")) else "core-seconds"


def _phases(
    points: list[InferencePoint], sizes: Array, batch: int | None, costs: list[InferenceCost]
) -> list[BatchCost]:
    counted = np.array([devices(cost) for cost in costs], dtype=np.float64)
    decode = counted / np.array([point.decode_tokens_per_second for point in points])
    prefill = counted / np.array([point.prefill_tokens_per_second for point in points])
    fitted = []
    for phase, seconds in (("decode", decode), ("prefill", prefill)):
        intercept, slope, error = fit_affine(sizes, seconds)
        fitted.append(
            BatchCost(
                phase="decode" if phase == "decode" else "prefill",
                batch=batch,
                t0_seconds=intercept,
                seconds_per_param=slope,
                max_rel_error=error,
                n_params_G=sizes,
                seconds_per_token_G=seconds,
            )
        )
    return fitted


def fit_affine(x: Array, y: Array) -> tuple[float, float, float]:
    """y = intercept + slope x, both >= 0, of the least summed relative error; returns them and the largest such error.

    Absolute errors, so that one size that was measured on a busy machine doesn't bend the line. Such a line runs through two
    of the points, or through one where intercept or slope is 0 (Boscovich 1757): all of these are tried.
    """
    i, j = np.triu_indices(len(x), 1)
    slopes = (y[j] - y[i]) / (x[j] - x[i])
    zero = np.zeros_like(y)
    candidates = np.concatenate(
        [np.stack([y[i] - slopes * x[i], slopes], axis=1), np.stack([y, zero], axis=1), np.stack([zero, y / x], axis=1)]
    )
    candidates = candidates[(candidates >= 0).all(axis=1)]
    errors = np.abs((candidates[:, :1] + candidates[:, 1:] * x) / y - 1)
    best = int(np.argmin(errors.sum(axis=1)))
    return float(candidates[best, 0]), float(candidates[best, 1]), float(errors[best].max())


def affine_cost(sizes: Array, cost: Array, *, unit: str, rule: str) -> TokenCost:
    """Measured costs a token as intercept + slope N."""
    intercept, slope, error = fit_affine(sizes, cost)
    return TokenCost(
        unit=unit,
        intercept=intercept,
        slope=slope,
        exponent=1.0,
        source="measured",
        rule=rule,
        max_rel_error=error,
        n_params_G=sizes,
        measured_G=cost,
    )
