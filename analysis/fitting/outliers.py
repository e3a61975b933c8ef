"""Runs too far off a law: named by a stated rule, dropped only when told to.

The rule: a run is an outlier when its log residual is more than `OUTLIER_SDS` robust sds. The robust sd is 1.4826 times the
median of the n - P largest absolute residuals (Street, Carroll and Ruppert 1988), n runs and P parameters: a fit that is
nearly least absolute deviations goes through P of the runs exactly, and these say nothing about the noise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.laws.base import Array
from analysis.results import Excluded, Outlier

OUTLIER_SDS = 5.0
#: Residuals below this are rounding, however small the sd.
ROUNDING = 1e-6
#: Logs of counts that differ by no more are equal but for rounding.
SAME = 1e-9
#: Dropping goes on, fit after fit, until nothing more is off, but no longer than this.
MAX_ROUNDS = 5
#: Past this share of dropped runs it is the law or the table that is off, not single runs.
MANY = 0.1

RULE = (
    f"more than {OUTLIER_SDS:g} robust sds of log loss off the law (the sd is 1.4826 times the median of the n - P largest "
    "absolute residuals)"
)


def robust_sd(residual_n: Array, n_parameters: int) -> float:
    """Robust sd of residuals whose fit took `n_parameters` from them."""
    largest = np.sort(np.abs(residual_n))[min(n_parameters, len(residual_n) - 1) :]
    return float(1.4826 * np.median(largest))


def outlying(residual_n: Array, scale_n: Array, sd: float) -> NDArray[np.bool_]:
    """Which runs the rule names; `scale_n` is each run's noise over the typical run's (`run_arrays.noise_scale`): the mean of
    many runs, or a large model where noise falls with size, is off by less than a single small one may be."""
    return np.asarray(np.abs(residual_n) / scale_n > max(OUTLIER_SDS * sd, ROUNDING))


def records(runs: pd.DataFrame, residual_n: Array, scale_n: Array, sd: float) -> tuple[Outlier, ...]:
    """Those `runs` as records, the worst first."""
    size = np.abs(residual_n) / scale_n / max(sd, ROUNDING)
    named = list(zip(runs["run_id"], runs["name"], runs["row"], strict=True))
    return tuple(
        Outlier(
            run_id=str(named[i][0]),
            name=str(named[i][1]),
            row=None if pd.isna(named[i][2]) else int(named[i][2]),
            log_residual=float(residual_n[i]),
            robust_sds=float(size[i]),
        )
        for i in np.argsort(-size, kind="stable")
    )


def beyond_the_kept(dropped: pd.DataFrame, kept: pd.DataFrame, counting: str) -> NDArray[np.bool_]:
    """Which of the `dropped` runs lie outside all `kept` ones in N, D, N D or D/N: there no kept run vouches for the law."""
    edges, inside = _places(kept, counting), _places(dropped, counting)
    outside = (inside < edges.min(axis=1, keepdims=True) - SAME) | (inside > edges.max(axis=1, keepdims=True) + SAME)
    return np.asarray(outside.any(axis=0))


def _places(runs: pd.DataFrame, counting: str) -> Array:
    log_n, log_d = (np.log(runs[name].to_numpy(dtype=np.float64)) for name in (counting, "n_tokens"))
    return np.stack([log_n, log_d, log_n + log_d, log_d - log_n])


def edge_warnings(dropped: pd.DataFrame, kept: pd.DataFrame, counting: str) -> list[str]:
    """A warning where the runs that were dropped as outliers are those at an edge of the design."""
    names = [str(name) for name in dropped["name"][beyond_the_kept(dropped, kept, counting)]] if len(dropped) else []
    if not names:
        return []
    named = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [
        f"{len(names)} of the {len(dropped)} runs dropped as outliers lie beyond all others in N, D, N D or D/N ({named}): at "
        "an edge it may be the law that is off rather than the run, and a forecast further out is then off as well"
    ]


def as_excluded(dropped: tuple[Outlier, ...]) -> tuple[Excluded, ...]:
    return tuple(
        Excluded(
            row=run.row,
            run_id=run.run_id,
            reason=f"dropped as an outlier: {off_in_words(run)}",
        )
        for run in dropped
    )


def off_in_words(run: Outlier) -> str:
    """How far off, from the run's side: 12 % above the law, 8.3 robust sds."""
    measured_over_law = float(np.exp(-run.log_residual)) - 1
    side = "above" if measured_over_law > 0 else "below"
    return f"its loss is {abs(measured_over_law):.1%} {side} the law's, {run.robust_sds:.3g} robust sds"


def warnings(outliers: tuple[Outlier, ...], dropped: tuple[Outlier, ...], n_runs: int, sd: float) -> list[str]:
    """What to say of runs that are off, `n_runs` of them fitted."""
    said = []
    if outliers:
        named = ", ".join(f"{run.name} ({np.expm1(-run.log_residual):+.1%})" for run in outliers[:5])
        named += f" and {len(outliers) - 5} more" if len(outliers) > 5 else ""
        said.append(
            f"{len(outliers)} of {n_runs} runs lie more than {OUTLIER_SDS:g} robust sds ({sd:.2%}) off the law: {named}; "
            "they stay in the fit"
        )
    if len(dropped) > MANY * (n_runs + len(dropped)):
        said.append(
            f"{len(dropped)} of {n_runs + len(dropped)} runs were dropped as outliers: so many say that the law or the table "
            "is off rather than single runs"
        )
    return said
