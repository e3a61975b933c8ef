"""The frontier: the lower envelope of measured loss against training FLOPs (approach 1)."""

from __future__ import annotations

from analysis.results import FrontierPoint
from analysis.runs.table import RunTable


def frontier(table: RunTable, *, counting: str = "n_params") -> tuple[FrontierPoint, ...]:
    """Finished runs that no run of as many or fewer FLOPs beats, by FLOPs; empty where the table has no FLOPs.

    Held-out runs are measured too, and stand in it.
    """
    known = table.usable.dropna(subset=["flops", counting]).sort_values(["flops", "loss"], kind="stable")
    best = float("inf")
    points = []
    for run in known.to_dict("records"):
        if run["loss"] < best:
            best = float(run["loss"])
            points.append(
                FrontierPoint(
                    run_id=str(run["run_id"]),
                    name=str(run["name"]),
                    n_params=float(run[counting]),
                    n_tokens=float(run["n_tokens"]),
                    flops=float(run["flops"]),
                    loss=best,
                )
            )
    return tuple(points)
