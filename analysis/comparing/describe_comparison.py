"""A comparison of two tables of runs: in words, the one number first, and as the command's JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.comparing.compare import call_them
from analysis.fitting.describe_fit import left_out_in_words
from analysis.fitting.fit_json import excluded_json
from analysis.results import ComparedTable, Comparison
from analysis.values_json import estimate_json, finite, interval_json
from analysis.words import flops, times


def describe_comparison(comparison: Comparison) -> tuple[str, ...]:
    """The comparison in sentences, the one number first."""
    found = comparison
    a, b = call_them(found.a.source, found.b.source)
    said = [_headline(found, a, b)]
    if found.named:
        said += [f"- {_at(found, g)}" for g in range(len(found.flops_G))]
    said.append(_constancy(found))
    said.append(
        "Both ran one design and were resampled run by run."
        if found.paired
        else "The two were resampled independently of each other."
    )
    for name, side in (("A", found.a), ("B", found.b)):
        said += [f"{name}: {words}" for words in left_out_in_words(side.excluded)]
    return (*said, *found.warnings)


def _headline(found: Comparison, a: str, b: str) -> str:
    m, ci95 = found.headline.value, found.headline.ci95
    known = "" if ci95 is None else f" (95 % interval {_times(ci95.lo)} to {_times(ci95.hi)})"
    where = (
        f"from {flops(found.covered.lo)} to {flops(found.covered.hi)}"
        if found.headline_flops is None and found.covered is not None
        else f"at {flops(found.headline_flops)}"
        if found.headline_flops is not None
        else "outside what both cover"
    )
    if found.named and not found.inside_G.any():
        where += ", beyond what both cover"
    clear = ci95 is not None and 1.0 not in ci95
    better = (
        "which of the two is better these runs can't tell"
        if ci95 is not None and not clear
        else f"{b} is the better"
        if m > 1
        else f"{a} is the better"
    )
    needs = (
        f"{a} needs {times(m)} the compute of {b} for the same loss"
        if np.isfinite(m)
        else f"{a} never reaches {b}'s loss"
    )
    return f"{needs}{known}, {where}: {better}."


def _at(found: Comparison, g: int) -> str:
    """One asked budget."""
    m = found.multiplier
    known = "" if found.resampling is None else f" ({_times(float(m.lo_G[g]))} to {_times(float(m.hi_G[g]))})"
    return (
        f"at {flops(float(found.flops_G[g]))}, a loss of {float(found.loss.mid_G[g]):.4f}: {_times(float(m.mid_G[g]))}{known}"
        + ("" if found.inside_G[g] else "; extrapolated, beyond what both cover")
    )


def _constancy(found: Comparison) -> str:
    if found.p_constant is None:
        return "Nothing was resampled, so neither an interval nor a test of a changing multiplier is told."
    if found.verdict == "constant":
        return (
            f"One multiplier fits the whole range to within {found.constant_loss_error:.2%} of loss; that it changes with "
            f"compute can't be told from these runs (p = {found.p_constant:.2g})."
        )
    return (
        f"The multiplier {found.verdict} with compute"
        + (f", as C^{found.slope.value:.2g}" if np.isfinite(found.slope.value) else " past every bound")
        + f" (p = {found.p_constant:.2g}), so it holds at that compute alone."
    )


def compare_json(comparison: Comparison) -> dict[str, Any]:
    """The JSON document of `isoloss compare A B --json`; what is not finite is null."""
    found = comparison

    def side(one: ComparedTable) -> dict[str, Any]:
        return {
            "source": one.source,
            "n_runs": one.n_runs,
            "flops": interval_json(one.flops),
            "limit": estimate_json(one.limit),
            "exponent": estimate_json(one.exponent),
            "excluded": excluded_json(one.excluded),
        }

    return {
        "a": side(found.a),
        "b": side(found.b),
        "law": found.law,
        "objective": found.objective,
        "counting": found.counting,
        "flops_rule": found.flops_rule,
        "multiplier": estimate_json(found.headline),
        "at_flops": finite(found.headline_flops),
        "verdict": found.verdict,
        "constant": {
            "multiplier": estimate_json(found.constant),
            "max_loss_error": finite(found.constant_loss_error),
            "slope": estimate_json(found.slope),
            "p": finite(found.p_constant),
        },
        "covered_flops": interval_json(found.covered),
        "curve": [
            {
                "flops": finite(float(found.flops_G[g])),
                "loss": finite(float(found.loss.mid_G[g])),
                "loss_a": finite(float(found.loss_a.mid_G[g])),
                "multiplier": finite(float(found.multiplier.mid_G[g])),
                "ci95": None
                if found.resampling is None
                else [finite(float(found.multiplier.lo_G[g])), finite(float(found.multiplier.hi_G[g]))],
                "inside": bool(found.inside_G[g]),
            }
            for g in range(len(found.flops_G))
        ],
        "paired": found.paired,
        "resampling": None if found.resampling is None else asdict(found.resampling),
        "warnings": list(found.warnings),
    }


def _times(value: float) -> str:
    return times(value) if np.isfinite(value) else "any number of times"
