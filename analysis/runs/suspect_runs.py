"""Finished runs whose own numbers speak against them, with the reasons: what `isoloss status` and a fit's warnings name.

Nothing is left out for it. A suspect run is one to look at before a month of compute is spent on what a fit to it says.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd

from analysis.words import count
from llama.data.repetition import EPOCHS_WORTH_NEW

#: A longer run's loss may lie so far above a shorter one's before it is suspect: what validation noise makes of equals.
RISE = 0.005
#: Runs that are named in one warning.
SHOWN = 3


def suspect_runs(frame: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Reasons by run_id, of the finished runs in a RunTable's frame."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    finished = frame[frame["status"] == "finished"]
    for run_id, reason in zip(finished["run_id"], finished["excluded"], strict=True):
        if reason:
            found[str(run_id)].append(f"no fit uses it: {reason}")
    runs = finished[finished["excluded"] == ""]
    for told in (_above_a_shorter_one(runs), _copies(runs), _skipped(runs), _repeated(runs)):
        for run_id, reason in told.items():
            found[run_id].append(reason)
    return {run_id: tuple(reasons) for run_id, reasons in found.items()}


def suspect_warning(frame: pd.DataFrame) -> str | None:
    """One sentence that names the suspect ones of the runs in use; None where there are none."""
    used = frame[frame["excluded"] == ""]
    reasons = suspect_runs(used)
    if not reasons:
        return None
    names = dict(zip(used["run_id"], used["name"], strict=True))
    named = "; ".join(f"{names[run_id]}: {told[0]}" for run_id, told in list(reasons.items())[:SHOWN])
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    are = "run is" if len(reasons) == 1 else "runs are"
    return f"{len(reasons)} of {len(used)} {are} suspect, and stay in use ({named}{more})"


def _above_a_shorter_one(runs: pd.DataFrame) -> dict[str, str]:
    """Runs that did worse than one of the same shape, rate and seed that saw fewer tokens."""
    found = {}
    cells = runs.dropna(subset=["n_params", "n_tokens", "loss"]).groupby(
        ["n_params", "d_model", "n_layers", "peak_lr", "seed", "held_out"], dropna=False, sort=False
    )
    for _, cell in cells:
        ordered = cell.sort_values("n_tokens")
        loss, tokens = (ordered[name].to_numpy(dtype=np.float64) for name in ("loss", "n_tokens"))
        names, ids = ordered["name"].to_numpy(dtype=str), ordered["run_id"].to_numpy(dtype=str)
        best = np.minimum.accumulate(loss)
        for i in np.flatnonzero(loss > best * (1 + RISE)):
            shorter = int(np.argmin(loss[:i]))
            if tokens[shorter] < tokens[i]:
                found[str(ids[i])] = (
                    f"its loss {loss[i]:.4g} is above the {loss[shorter]:.4g} of {names[shorter]}, which saw "
                    f"{count(tokens[shorter])} tokens to its {count(tokens[i])}"
                )
    return found


def _copies(runs: pd.DataFrame) -> dict[str, str]:
    first: dict[tuple[float, float, float], str] = {}
    found = {}
    for run_id, name, *numbers in runs[["run_id", "name", "n_params", "n_tokens", "loss"]].itertuples(index=False):
        original = first.setdefault(tuple(numbers), name)
        if original != name:
            found[str(run_id)] = f"it has the N, D and loss of {original} to the last digit"
    return found


def _skipped(runs: pd.DataFrame) -> dict[str, str]:
    spiky = runs[runs["skipped_updates"] > 0]
    return {
        str(run_id): f"{int(skipped):,} of its updates were skipped as spikes"
        for run_id, skipped in zip(spiky["run_id"], spiky["skipped_updates"], strict=True)
    }


def _repeated(runs: pd.DataFrame) -> dict[str, str]:
    epochs = runs["n_tokens"] / runs["unique_tokens"]
    return {
        str(
            run_id
        ): f"it reads its text {passes:.1f} times, and beyond {EPOCHS_WORTH_NEW:g} epochs repeated tokens are worth "
        "less than new ones"
        for run_id, passes in zip(
            runs["run_id"][epochs > EPOCHS_WORTH_NEW], epochs[epochs > EPOCHS_WORTH_NEW], strict=True
        )
    }
