"""The decision made again under the choices of other analysts: one objective, outlier rule, law or count at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np

from analysis.counting import convert
from analysis.decisions.choose import Pick, Setting, pick
from analysis.fitting.bootstrap import seed_noise
from analysis.fitting.fit import fit as fit_law
from analysis.fitting.objective import OBJECTIVES
from analysis.fitting.options import FitOptions
from analysis.laws import get_law, law_names
from analysis.results import Factor, Fit
from analysis.runs.table import COUNTING, RunTable
from llama.errors import UserError

#: A law is rejected whose AIC exceeds the best one's by more: "essentially no support" (Burnham & Anderson 2002, section 2.6).
AIC_REJECTS = 10.0
#: Mean absolute log residual below which two laws fit alike: rounding.
EXACT = 1e-9


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One choice: its law, and what that law decides."""

    factor: Factor
    choice: str
    used: bool
    """Whether it is the fit's own."""
    fit: Fit | None
    refused: str | None
    best: Pick | None = None
    drawn: Pick | None = None

    @property
    def joins(self) -> bool:
        """Whether it has a part in the joint interval."""
        return self.refused is None and self.best is not None

    @property
    def log_n(self) -> float | None:
        return None if self.best is None or not np.isfinite(self.best.n_params) else float(np.log(self.best.n_params))


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Everything that a choice leaves as it is."""

    table: RunTable
    fit: Fit
    setting: Callable[[str], Setting]
    """The question, its costs and limits in a counting rule."""
    draws: int
    """Of each refit."""
    counting: str
    """What sizes are told in."""
    options: FitOptions
    """Of the fit, where they are not its own to tell (`resampling`, `seed`, `drop_off_rate`)."""

    def own(self, factor: Factor, choice: str) -> Tried:
        """The fit itself, as one choice of a factor, with all its draws."""
        return self._decide(Tried(factor=factor, choice=choice, used=True, fit=self.fit, refused=None))

    def again(self, factor: Factor, choice: str, *, on: RunTable | None = None, **options: Unpack[FitOptions]) -> Tried:
        """Another choice, refitted with draws of its own, on other runs where they are named."""
        fit = self.fit
        asked: FitOptions = {
            **self.options,
            "law": fit.law,
            "objective": fit.objective,
            "delta": fit.delta,
            "counting": fit.counting,
            "weights": fit.weights,
            "drop_outliers": bool(fit.dropped),
            "bootstrap": self.draws,
            **options,
        }
        try:
            refitted, refused = fit_law(on or self.table, **asked), None
        except UserError as error:
            refitted, refused = None, str(error)
        return self._decide(Tried(factor=factor, choice=choice, used=False, fit=refitted, refused=refused))

    def objectives(self) -> list[Tried]:
        """Every objective."""
        return [
            self.own("objective", name) if name == self.fit.objective else self.again("objective", name, objective=name)
            for name in OBJECTIVES
        ]

    def outliers(self) -> list[Tried]:
        """Kept and dropped, where there are any."""
        if self.fit.dropped:
            return [self.own("outliers", "dropped"), self.again("outliers", "kept", drop_outliers=False)]
        if self.fit.outliers:
            return [self.own("outliers", "kept"), self.again("outliers", "dropped", drop_outliers=True)]
        return [self.own("outliers", "kept")]

    def counts(self) -> list[Tried]:
        """Every count of N that all fitted runs have."""
        known = [rule for rule in COUNTING if self._known(rule)]
        return [
            self.own("counting", rule) if rule == self.fit.counting else self.again("counting", rule, counting=rule)
            for rule in dict.fromkeys((self.fit.counting, *known))
        ]

    def laws(self) -> tuple[list[Tried], Tried, float]:
        """Every law that the table can speak to, those that the runs reject refused; the one they prefer; and by how much its
        AIC is below that of the law that was fitted.

        All are fitted to the runs that the fit kept: another law's outliers would be other runs, and their AICs would not
        compare. A law of another count than all parameters is tried where the table has that count.
        """
        kept = {point.run_id for point in self.fit.points}
        frame = self.table.frame
        runs = replace(self.table, frame=frame[frame["run_id"].isin(kept)]) if self.fit.dropped else self.table
        tried = []
        for name in law_names():
            law = get_law(name)
            rule = self.fit.counting if law.counting == COUNTING[0] else law.counting
            if name == self.fit.law:
                tried.append(self.own("law", name))
            elif self._known(rule) and (self._repeats() or not law.uses_unique_tokens):
                tried.append(self.again("law", name, on=runs, law=name, counting=rule, drop_outliers=False))
        aic = {entry.choice: evidence(entry.fit, self.table) for entry in tried if entry.fit is not None}
        best = min(aic, key=lambda name: aic[name])
        judged = [
            replace(
                entry,
                refused=f"the runs reject it: its AIC is {aic[entry.choice] - aic[best]:.0f} above that of {best}",
            )
            if entry.choice in aic and aic[entry.choice] - aic[best] > AIC_REJECTS
            else entry
            for entry in tried
        ]
        preferred = next(entry for entry in judged if entry.choice == best)
        return judged, preferred, aic[self.fit.law] - aic[best]

    def seeds(self, base: Tried) -> tuple[Tried | None, str]:
        """The decision's draws under noise between seeds alone, and how it is known."""
        noise = seed_noise(self.table.at_the_best_rate().fitted)
        if noise is None:
            if (self.table.fitted["design"] == "").all():
                return None, "the table doesn't say which runs differ by their seed alone (a column seed would)"
            return None, "no cell of the design was trained with several seeds, so their noise is not told apart"
        tried = base
        if self.fit.resampling is None or self.fit.resampling.method != "parametric":
            tried = self.again("seed", "parametric", resampling="parametric")
        if tried.fit is None or tried.fit.resampling is None or tried.drawn is None:
            return None, tried.refused or "the noise between seeds could not be drawn"
        # Where residuals are larger than the noise between seeds they are what is drawn: to first order the decision goes with
        # it.
        share = noise.sd / (tried.fit.resampling.noise_sd or noise.sd)
        best = float(base.best.n_params) if base.best is not None else np.nan
        n_params = best * (tried.drawn.n_params / best) ** share
        return replace(tried, drawn=tried.drawn._replace(n_params=n_params)), (
            f"the fitted law with the noise between seeds on top: {noise.sd:.2%} of the loss ({noise.degrees_of_freedom} "
            "degrees of freedom)"
        )

    def _decide(self, tried: Tried) -> Tried:
        if tried.fit is None:
            return tried
        found, law, rule = self.setting, get_law(tried.fit.law), tried.fit.counting
        try:
            best = self._counted(pick(found(rule), law, law.as_vector(tried.fit.params)), rule)
            drawn = None
            if tried.fit.draws_KP is not None and self.draws:
                drawn = self._counted(pick(found(rule), law, tried.fit.draws_KP), rule)
        except UserError as error:
            return replace(tried, refused=str(error))
        if not np.isfinite(best.n_params):
            return replace(tried, refused="no model answers the question under this choice")
        return replace(tried, best=best, drawn=drawn)

    def _counted(self, found: Pick, rule: str) -> Pick:
        known = np.isfinite(found.n_params)
        some = np.where(known, found.n_params, 1.0)
        return found._replace(n_params=np.where(known, convert(self.table, some, rule, self.counting).value, np.inf))

    def _known(self, rule: str) -> bool:
        runs = self.table.fitted
        return len(runs) > 0 and bool(runs[rule].notna().all())

    def _repeats(self) -> bool:
        """Whether the table says of all runs what they repeat, and some repeat."""
        runs = self.table.fitted
        return bool(runs["unique_tokens"].notna().all() and (runs["n_tokens"] > runs["unique_tokens"]).any())


def evidence(fit: Fit, table: RunTable) -> float:
    """AIC of a fitted law, residuals taken as Laplace (what the robust objectives assume), runs of a group as one observation.

    2 n ln(mean |r|/sigma) + 2 P, sigma a run's noise by its weight and n the groups: branches of one trunk don't bear witness
    independently.
    """
    points = [point for point in fit.points if not point.held_out]
    # Weights are inverse variances, but for robust objectives by the noise model: these take inverse sds.
    power = 1.0 if fit.weights == "noise" and fit.objective in ("huber_log", "lad_log") else 0.5
    residual = np.array([abs(point.log_residual) * point.weight**power for point in points])
    group_of = dict(zip(table.frame["run_id"], table.frame["group"], strict=True))
    groups = [str(group_of.get(point.run_id, "")) for point in points]
    independent = len(set(groups)) if all(groups) else len(groups)
    return 2 * independent * float(np.log(max(float(residual.mean()), EXACT))) + 2 * len(fit.params)


def common_count(table: RunTable, fit: Fit) -> str:
    """All parameters where the table can tell them from what was fitted, since counts must compare."""
    try:
        convert(table, float(fit.points[0].n_params), fit.counting, COUNTING[0])
    except UserError:
        return fit.counting
    return COUNTING[0]
