"""What a table's runs do downstream: the forms of `analysis.downstream.forms` on its task columns, held-out runs predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.downstream.forms import DownstreamFit, fit_downstream, get_form
from analysis.runs.table import RunTable
from analysis.values_json import finite, intervals_json
from analysis.words import brackets, number
from llama.errors import UserError

#: Column of the target -> form of its curve over loss.
FORMS = {"task_error": "exponential", "task_accuracy": "sigmoid"}


@dataclass(frozen=True, kw_only=True)
class DownstreamResult:
    """One target's curve, or why there is none."""

    target: str
    """Column of the target: task_error or task_accuracy."""
    against: str
    """Column of the loss: task_loss where the runs state it, else loss."""
    fit: DownstreamFit | None
    n_held_out: int
    held_out_error: float | None
    """Mean absolute error on held-out runs, as a share of answers."""
    absent: str | None


def downstream_results(table: RunTable, *, bootstrap: int = 1000, seed: int = 0) -> tuple[DownstreamResult, ...]:
    """A curve for each target that any run states; none where none does."""
    usable = table.usable
    found = []
    for target, form in FORMS.items():
        stated = usable[usable[target].notna()]
        if not len(stated):
            continue
        against = "task_loss" if stated["task_loss"].notna().all() else "loss"
        fitted, held_out = stated[~stated["held_out"]], stated[stated["held_out"]]
        fit, absent, error = None, None, None
        try:
            fit = fit_downstream(
                fitted[against].to_numpy(dtype=np.float64),
                fitted[target].to_numpy(dtype=np.float64),
                form=form,
                bootstrap=bootstrap,
                seed=seed,
            )
        except UserError as refused:
            absent = str(refused)
        if fit is not None and len(held_out):
            predicted = fit.predict(held_out[against].to_numpy(dtype=np.float64))
            error = float(np.abs(predicted - held_out[target].to_numpy(dtype=np.float64)).mean())
        found.append(
            DownstreamResult(
                target=target, against=against, fit=fit, n_held_out=len(held_out), held_out_error=error, absent=absent
            )
        )
    return tuple(found)


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
