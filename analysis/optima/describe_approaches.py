"""The three approaches in lines for a terminal: what each says of one budget, and why one says nothing."""

from __future__ import annotations

from collections.abc import Callable

from analysis.fitting.describe_fit import left_out_in_words
from analysis.results import Approach, Approaches, Estimate
from analysis.words import brackets, count, flops, times

TITLES = {
    "envelope": "Approach 1, the envelope of losses",
    "isoflop": "Approach 2, isoFLOP bowls",
    "surface": "Approach 3, the loss surface",
}


def describe_approaches(found: Approaches) -> str:
    """N*, D*, loss and exponents by each approach, side by side."""
    lines = [
        f"At {flops(found.flops)} ({times(found.flops / found.largest_flops)} the largest run's), N is {found.counting}, "
        f"training costs {found.flops_rule}:",
        *(f"- {TITLES[one.name]} ({one.n_runs} runs): {_says(one)}" for one in found.approaches),
    ]
    if found.n_opt_spread is not None:
        lines.append(f"Their N_opt lie within a factor {found.n_opt_spread:.2f} of each other.")
    lines += left_out_in_words(found.excluded)
    warnings = dict.fromkeys((*found.warnings, *(word for one in found.approaches for word in one.warnings)))
    lines += [f"warning: {word}" for word in warnings]
    return "\n".join(lines)


def _says(one: Approach) -> str:
    if one.n_opt is None:
        return f"no answer: {'; '.join(dict.fromkeys(one.absent.values()))}"
    parts = [_estimate(one.n_opt, count) + " parameters"]
    if one.d_opt is not None:
        parts.append(_estimate(one.d_opt, count) + " tokens")
    if one.loss is not None:
        parts.append("loss " + _estimate(one.loss, lambda value: f"{value:.3f}"))
    if one.n_opt_exponent is not None:
        parts.append("N_opt ~ C^" + _estimate(one.n_opt_exponent, lambda value: f"{value:.3f}"))
    return ", ".join(parts)


def _estimate(value: Estimate, show: Callable[[float], str]) -> str:
    return show(value.value) + brackets(value.ci95, show)
