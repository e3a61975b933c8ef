"""Two tables of one design: run against run, so that both can be resampled together.

What one design's cells have in common (a size that no recipe likes, the law's own error there) then cancels between the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs.table import RunTable

#: Runs of both tables are one cell of a design when N and D agree to this.
SAME_CELL = 1e-3
#: Share of each table's runs that must have a partner; with fewer, cutting both to what they share costs too much.
MIN_SHARED = 0.8


@dataclass(frozen=True, kw_only=True)
class PairedDesign:
    """Both tables cut to the cells that they share, run i of one beside run i of the other, groups under A's names."""

    a: RunTable
    b: RunTable
    left_out_a: int
    left_out_b: int
    """Runs without a partner, in neither table any more."""


def paired(a: RunTable, b: RunTable, counting: str) -> PairedDesign | None:
    """The runs that would be fitted, paired by N, D and order of seeds; None where the designs differ.

    They differ too where runs that share randomness in one table don't in the other: whole groups are resampled.
    """
    fitted_a, fitted_b = (runs[runs[counting].notna()] for runs in (a.fitted, b.fitted))
    if not len(fitted_a) or not len(fitted_b):
        return None
    both = pd.concat([fitted_a, fitted_b])
    keys = pd.DataFrame(
        {
            "n": _clusters(both[counting].to_numpy(dtype=np.float64)),
            "d": _clusters(both["n_tokens"].to_numpy(dtype=np.float64)),
            "seed": both["seed"].astype("Float64").fillna(-1.0).to_numpy(dtype=np.float64),
            "of_b": np.arange(len(both)) >= len(fitted_a),
            "position": np.concatenate([np.arange(len(fitted_a)), np.arange(len(fitted_b))]),
        }
    ).sort_values(["seed", "position"])
    keys["time"] = keys.groupby(["n", "d", "of_b"]).cumcount()
    shared = keys[~keys["of_b"]].merge(keys[keys["of_b"]], on=["n", "d", "time"]).sort_values("position_x")
    if len(shared) < MIN_SHARED * max(len(fitted_a), len(fitted_b)):
        return None
    runs_a = fitted_a.iloc[shared["position_x"].to_numpy()]
    runs_b = fitted_b.iloc[shared["position_y"].to_numpy()]
    groups = pd.DataFrame({"a": runs_a["group"].to_numpy(), "b": runs_b["group"].to_numpy()}).drop_duplicates()
    if groups["a"].duplicated().any() or groups["b"].duplicated().any():
        return None
    return PairedDesign(
        a=_with_fitted(a, fitted_a.index, runs_a),
        b=_with_fitted(b, fitted_b.index, runs_b.assign(group=runs_a["group"].to_numpy())),
        left_out_a=len(fitted_a) - len(shared),
        left_out_b=len(fitted_b) - len(shared),
    )


def _with_fitted(table: RunTable, fitted: pd.Index, runs: pd.DataFrame) -> RunTable:
    others = table.frame.drop(index=fitted)
    return replace(table, frame=pd.concat([runs, others]).reset_index(drop=True))


def _clusters(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """A number for each value, the same where neighbours in order lie within `SAME_CELL`."""
    order = np.argsort(values, kind="stable")
    new = np.concatenate([[0], np.cumsum(np.diff(np.log(values[order])) > SAME_CELL)])
    numbers = np.empty(len(values), dtype=np.intp)
    numbers[order] = new
    return numbers
