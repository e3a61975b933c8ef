"""What the finished runs of a sweep say of those to come: each one's final loss, by the law through the runs so far.

It is for watching, while a sweep runs: a fit with few resamples and few windows, a few hundred milliseconds in all. What a
decision rests on is `analysis.fit`, with all of either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.fitting.extrapolation import expanding_window, forecast
from analysis.fitting.fit import fit
from analysis.fitting.outliers import off_in_words
from analysis.results import Extrapolation, Fit
from analysis.runs.table import RunTable
from llama.errors import UserError

#: Statuses of runs that have no final loss yet. A failed one goes on with the next launch.
UNFINISHED = ("absent", "started", "failed")
#: An interval whose half is more than this share of the loss says that the runs say nothing of it yet.
VAGUE = 0.2
DRAWS = 100
WINDOWS, RATIO_WINDOWS = 3, 1


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A run's final loss before it is there."""

    loss: float
    """Nats a token."""
    plus_minus: float
    """Half of the 95 % interval of the run's own final loss: the law's doubt, the runs' scatter, and the error of extrapolating
    where windows of the runs so far show one.
    """

    def __str__(self) -> str:
        """As many digits as are known: 3.21 ± 0.02."""
        digits = max(1, min(4, math.ceil(-math.log10(self.plus_minus)))) if 0 < self.plus_minus < 1 else 4
        if self.plus_minus >= 1:
            digits = 0
        return f"{self.loss:.{digits}f} ± {self.plus_minus:.{digits}f}"


@dataclass(frozen=True, kw_only=True)
class LawSoFar:
    """The law through the finished runs, or why there is none yet."""

    n_runs: int
    """Finished runs that a fit may use."""
    fit: Fit | None
    extrapolation: Extrapolation | None
    why_not: str | None
    """What the runs lack before they identify a law; None where `fit` is there."""

    def project(self, n_params: float, n_tokens: float, unique_tokens: float = math.inf) -> Projection | None:
        """The final loss of a run of so many parameters (all of them) and tokens, of which `unique_tokens` are distinct; None
        without a law, and where the law is too vague there to say anything.
        """
        if self.fit is None:
            return None
        told = forecast(self.fit, self.extrapolation, n_params, n_tokens, unique_tokens)
        half = (told.ci95.hi - told.ci95.lo) / 2
        return Projection(loss=told.loss, plus_minus=half) if half <= VAGUE * told.loss else None

    def project_unfinished(self, table: RunTable) -> dict[str, Projection]:
        """By run_id, of the runs that may still finish."""
        rows = table.frame[table.frame["status"].isin(UNFINISHED)]
        columns = (rows[name] for name in ("run_id", "n_params", "n_tokens", "unique_tokens"))
        found = {}
        for run_id, n_params, n_tokens, unique_tokens in zip(*columns, strict=True):
            if n_params > 0 and n_tokens > 0:
                told = self.project(n_params, n_tokens, math.inf if math.isnan(unique_tokens) else unique_tokens)
                if told is not None:
                    found[str(run_id)] = told
        return found

    @property
    def outliers(self) -> dict[str, str]:
        """Finished runs too far off the law, by run_id, and how far."""
        return {} if self.fit is None else {run.run_id: off_in_words(run) for run in self.fit.outliers}

    def __str__(self) -> str:
        """`law so far: 14 runs`, or what is missing."""
        runs = f"{self.n_runs} run{'' if self.n_runs == 1 else 's'}"
        return f"law so far: {runs}" if self.fit is not None else f"no law yet from {runs}"


def law_so_far(table: RunTable) -> LawSoFar:
    """Fit the sweep's runs so far. Runs that are held out never enter."""
    n_runs = len(table.at_the_best_rate().fitted)
    if not n_runs:
        return LawSoFar(n_runs=0, fit=None, extrapolation=None, why_not="none is finished")
    try:
        found = fit(table, bootstrap=DRAWS)
    except UserError as error:
        return LawSoFar(n_runs=n_runs, fit=None, extrapolation=None, why_not=str(error))
    try:
        tried = expanding_window(table, found, windows=WINDOWS, ratio_windows=RATIO_WINDOWS)
    except (
        UserError
    ):  # too few runs for a law through the smaller ones: `forecast` then knows the residuals' scatter alone
        tried = None
    return LawSoFar(n_runs=found.n_runs, fit=found, extrapolation=tried, why_not=None)
