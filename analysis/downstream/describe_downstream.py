"""The downstream curves in words and as JSON values."""

from __future__ import annotations

from typing import Any

from analysis.downstream.forms import get_form
from analysis.downstream.of_runs import DownstreamResult
from analysis.values_json import finite, intervals_json
from analysis.words import brackets, number


def describe_downstream(results: tuple[DownstreamResult, ...]) -> list[str]:
    """A sentence a target, its doubts after it."""
    lines = []
    for one in results:
        if one.fit is None:
            lines.append(f"No curve of {one.target} over {one.against}: {one.absent}")
            continue
        form = get_form(one.fit.form)
        shown = ", ".join(
            f"{name} {number(value)}" + brackets(None if one.fit.ci95 is None else one.fit.ci95[name], number)
            for name, value in one.fit.params.items()
        )
        said = (
            f"{one.target} over {one.against} ({one.fit.form}, {form.source}) of {one.fit.n_runs} runs: {shown}; runs scatter "
            f"by {one.fit.residual_sd:.2%} of answers"
        )
        if one.held_out_error is not None:
            said += f"; {one.n_held_out} held-out are {one.held_out_error:.2%} off on average"
        lines += [said + ".", *(f"warning: {one.target}: {warning}" for warning in one.fit.warnings)]
    return lines


def downstream_json(results: tuple[DownstreamResult, ...]) -> list[dict[str, Any]]:
    """The results as JSON values."""
    return [
        {
            "target": one.target,
            "against": one.against,
            "form": None if one.fit is None else one.fit.form,
            "params": None if one.fit is None else {name: finite(value) for name, value in one.fit.params.items()},
            "ci95": None if one.fit is None else intervals_json(one.fit.ci95),
            "n_runs": 0 if one.fit is None else one.fit.n_runs,
            "residual_sd": None if one.fit is None else finite(one.fit.residual_sd),
            "held_out": {"n": one.n_held_out, "mean_abs_error": finite(one.held_out_error)},
            "warnings": [] if one.fit is None else list(one.fit.warnings),
            "absent": one.absent,
        }
        for one in results
    ]
