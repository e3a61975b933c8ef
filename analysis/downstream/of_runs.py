"""What a table's runs do downstream: the forms of `analysis.downstream.forms` on its task columns, held-out runs predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.downstream.forms import FORMS, DownstreamFit, fit_downstream, get_form
from analysis.runs.table import RunTable
from llama.errors import UserError


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


def downstream_results(
    table: RunTable, *, bootstrap: int = 1000, seed: int = 0, over: Literal["task_loss", "loss"] = "task_loss"
) -> tuple[DownstreamResult, ...]:
    """A curve for each target that any run states; none where none does.

    Args:
        bootstrap, seed: of each curve.
        over: task_loss takes the loss on the task's own answers where all runs state it; loss takes what laws are fitted to,
            so that a law's forecast can be put through the curve.
    """
    usable = table.usable
    found = []
    for form in FORMS:
        target = f"task_{get_form(form).target}"
        stated = usable[usable[target].notna()]
        if not len(stated):
            continue
        against = "task_loss" if over == "task_loss" and stated["task_loss"].notna().all() else "loss"
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
