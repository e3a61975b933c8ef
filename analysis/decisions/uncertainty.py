"""The whole uncertainty of a decision: what sampling and noise leave open, and what analysts' choices add to it.

A bootstrap shows what other draws of the runs would say under one objective, one law, one count. On 240 published runs the
choice of objective alone moves the compute-optimal size as far as that (field notes on Besiroglu et al. 2024). So the fit is
repeated under every other choice, one at a time, each with draws of its own; those that the runs don't reject are mixed in
equal parts, and the joint interval is the mixture's.
"""

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
from analysis.intervals import interval
from analysis.laws import get_law, law_names
from analysis.results import Array, Choice, Contribution, Factor, Fit, Interval, Uncertainty
from analysis.runs.table import COUNTING, RunTable
from llama.errors import UserError

#: Forms of the law that a careful analyst may choose between; the one that was fitted is always among them.
LAW_FORMS = ("chinchilla", "skaling", "overtraining")
#: A law is rejected whose AIC exceeds the best one's by more: "essentially no support" (Burnham & Anderson 2002, section 2.6).
AIC_REJECTS = 10.0
#: Runs times draws a choice: more runs, fewer draws, so that a decision stays a matter of seconds.
DRAWS, LEAST_DRAWS, RUN_DRAWS = 300, 100, 72_000
#: Mean absolute log residual below which two laws fit alike: rounding.
EXACT = 1e-9
FACTORS: tuple[Factor, ...] = ("sampling", "seed", "objective", "outliers", "law", "counting")


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """One choice: its law, and what that law decides."""

    factor: Factor
    choice: str
    used: bool
    fit: Fit | None
    refused: str | None
    best: Pick | None = None
    drawn: Pick | None = None

    @property
    def log_n(self) -> float | None:
        return None if self.best is None or not np.isfinite(self.best.n_params) else float(np.log(self.best.n_params))


def uncertainty(
    table: RunTable,
    fit: Fit,
    setting: Callable[[str], Setting],
    *,
    draws: int | None = None,
    **fit_options: Unpack[FitOptions],
) -> Uncertainty:
    """The decision that `setting` asks for under every choice, and the joint interval.

    Args:
        table: what `fit` was fitted to.
        fit: the fit that the recommendation rests on.
        setting: the question, its costs and limits in a counting rule.
        draws: resamples a choice; None takes 300, fewer beyond 240 runs. Never more than `fit` has.
        fit_options: that `fit` was made with, where they are not its own to tell (`resampling`, `seed`, `drop_off_rate`).
    """
    if draws is None:
        draws = int(np.clip(RUN_DRAWS / fit.n_runs, LEAST_DRAWS, DRAWS))
    draws = min(draws, 0 if fit.draws_KP is None else len(fit.draws_KP))
    counting = _common_count(table, fit)

    def decide(tried: _Tried) -> _Tried:
        if tried.fit is None:
            return tried
        try:
            found = setting(tried.fit.counting)
            law = get_law(tried.fit.law)
            best = _counted(pick(found, law, law.as_vector(tried.fit.params)), table, tried.fit.counting, counting)
            drawn = None
            if tried.fit.draws_KP is not None and draws:
                drawn = _counted(pick(found, law, tried.fit.draws_KP[:draws]), table, tried.fit.counting, counting)
        except UserError as error:
            return replace(tried, refused=str(error))
        if not np.isfinite(best.n_params):
            return replace(tried, refused="no model answers the question under this choice")
        return replace(tried, best=best, drawn=drawn)

    def again(factor: Factor, choice: str, **options: Unpack[FitOptions]) -> _Tried:
        asked: FitOptions = {
            **fit_options,
            "law": fit.law,
            "objective": fit.objective,
            "delta": fit.delta,
            "counting": fit.counting,
            "weights": fit.weights,
            "drop_outliers": bool(fit.dropped),
            "bootstrap": draws,
            **options,
        }
        try:
            refitted = fit_law(table, **asked)
        except UserError as error:
            return _Tried(factor=factor, choice=choice, used=False, fit=None, refused=str(error))
        return _Tried(factor=factor, choice=choice, used=False, fit=refitted, refused=None)

    def own(factor: Factor, choice: str) -> _Tried:
        return _Tried(factor=factor, choice=choice, used=True, fit=fit, refused=None)

    base = decide(own("sampling", "as fitted"))
    seeds, why_no_seeds = (
        _seed_draws(table, fit, base, again, decide) if draws else (None, "no bootstrap was asked for")
    )
    laws, against = _laws(table, fit, again, own)
    tried = [
        *(
            own("objective", name) if name == fit.objective else again("objective", name, objective=name)
            for name in OBJECTIVES
        ),
        *_outliers(fit, again, own),
        *laws,
        *_counts(table, fit, again, own),
    ]
    tried = [
        decide(entry) if not entry.used else replace(base, factor=entry.factor, choice=entry.choice) for entry in tried
    ]
    joined = [base, *(entry for entry in tried if not entry.used and _joins(entry))]
    mixture = _mixture(joined) if draws else None
    return Uncertainty(
        decision="lifetime_optimal" if setting(fit.counting).demand_tokens else "training_optimal",
        counting=counting,
        contributions=(
            _over_draws("sampling", base, fit.resampling.reason if fit.resampling else "no bootstrap was asked for"),
            _over_draws("seed", seeds, why_no_seeds),
            *(_over_choices(factor, tried, fit) for factor in FACTORS[2:]),
        ),
        choices=tuple(_choice(entry) for entry in tried),
        joint=None if mixture is None else _intervals(mixture),
        sd_log_n=None if mixture is None else _sd(mixture.n_params),
        draws=draws,
        warnings=against,
    )


def evidence(fit: Fit, table: RunTable) -> float:
    """AIC of a fitted law, residuals taken as Laplace (what the robust objectives assume), runs of a group as one observation.

    2 n ln(mean |r|) + 2 P with n the groups: branches of one trunk don't bear witness independently.
    """
    residual = np.array([abs(point.log_residual) for point in fit.points if not point.held_out])
    group_of = dict(zip(table.frame["run_id"], table.frame["group"], strict=True))
    groups = [str(group_of.get(point.run_id, "")) for point in fit.points if not point.held_out]
    independent = len(set(groups)) if all(groups) else len(groups)
    return 2 * independent * float(np.log(max(float(residual.mean()), EXACT))) + 2 * len(fit.params)


def _laws(
    table: RunTable, fit: Fit, again: Callable[..., _Tried], own: Callable[[Factor, str], _Tried]
) -> tuple[list[_Tried], tuple[str, ...]]:
    """Every law form, those that the runs reject with the reason; and what the runs say against the one that was fitted."""
    names = [name for name in dict.fromkeys((fit.law, *LAW_FORMS)) if name in law_names()]
    tried = [own("law", name) if name == fit.law else again("law", name, law=name) for name in names]
    aic = {entry.choice: evidence(entry.fit, table) for entry in tried if entry.fit is not None}
    best = min(aic, key=lambda name: aic[name])
    excess = {name: value - aic[best] for name, value in aic.items()}
    judged = [
        replace(entry, refused=f"the runs reject it: its AIC is {excess[entry.choice]:.0f} above that of {best}")
        if not entry.used and excess.get(entry.choice, 0.0) > AIC_REJECTS
        else entry
        for entry in tried
    ]
    if excess[fit.law] <= AIC_REJECTS:
        return judged, ()
    return judged, (
        f"the runs speak against the law {fit.law}: its AIC is {excess[fit.law]:.0f} above that of {best}; ask again with "
        f"--law {best}",
    )


def _outliers(fit: Fit, again: Callable[..., _Tried], own: Callable[[Factor, str], _Tried]) -> list[_Tried]:
    if fit.dropped:
        return [own("outliers", "dropped"), again("outliers", "kept", drop_outliers=False)]
    if fit.outliers:
        return [own("outliers", "kept"), again("outliers", "dropped", drop_outliers=True)]
    return [own("outliers", "kept")]


def _counts(
    table: RunTable, fit: Fit, again: Callable[..., _Tried], own: Callable[[Factor, str], _Tried]
) -> list[_Tried]:
    known = [rule for rule in COUNTING if len(table.fitted) and table.fitted[rule].notna().all()]
    return [
        own("counting", rule) if rule == fit.counting else again("counting", rule, counting=rule)
        for rule in dict.fromkeys((fit.counting, *known))
    ]


def _seed_draws(
    table: RunTable, fit: Fit, base: _Tried, again: Callable[..., _Tried], decide: Callable[[_Tried], _Tried]
) -> tuple[_Tried | None, str]:
    """The decision's draws under noise between seeds alone, and how it is known."""
    noise = seed_noise(table.at_the_best_rate().fitted)
    if noise is None:
        return None, "no cell of the design was trained with several seeds, so their noise is not told apart"
    tried = base
    if fit.resampling is None or fit.resampling.method != "parametric":
        tried = decide(again("seed", "parametric", resampling="parametric"))
    if tried.fit is None or tried.fit.resampling is None or tried.drawn is None:
        return None, tried.refused or "the noise between seeds could not be drawn"
    # Where residuals are larger than the noise between seeds they are what is drawn: to first order the decision goes with it.
    share = noise.sd / (tried.fit.resampling.noise_sd or noise.sd)
    best = float(base.best.n_params) if base.best is not None else np.nan
    n_params = best * (tried.drawn.n_params / best) ** share
    return replace(tried, drawn=tried.drawn._replace(n_params=n_params)), (
        f"the fitted law with the noise between seeds on top: {noise.sd:.2%} of the loss ({noise.degrees_of_freedom} degrees "
        "of freedom)"
    )


def _joins(tried: _Tried) -> bool:
    return tried.refused is None and tried.best is not None


def _mixture(joined: list[_Tried]) -> Pick | None:
    drawn = [entry.drawn for entry in joined if entry.drawn is not None]
    if not drawn:
        return None
    # Equal weights: as many draws of each.
    least = min(len(part.n_params) for part in drawn)
    return Pick(*(np.concatenate([part[field][:least] for part in drawn]) for field in range(len(Pick._fields))))


def _over_draws(factor: Factor, tried: _Tried | None, reason: str) -> Contribution:
    if tried is None or tried.drawn is None:
        return Contribution(factor=factor, sd_log_n=None, n_params=None, reason=reason)
    drawn = tried.drawn.n_params
    return Contribution(factor=factor, sd_log_n=_sd(drawn), n_params=interval(drawn), reason=reason)


def _over_choices(factor: Factor, tried: list[_Tried], fit: Fit) -> Contribution:
    of_factor = [entry for entry in tried if entry.factor == factor]
    kept = [entry for entry in of_factor if _joins(entry)]
    log_n = np.array([entry.log_n for entry in kept if entry.log_n is not None])
    if factor == "outliers" and len(of_factor) == 1:
        reason = f"no run is an outlier ({fit.outlier_rule})" if fit.outlier_rule else "no run is an outlier"
        same = float(np.exp(log_n[0])) if len(log_n) else np.nan
        return Contribution(factor=factor, sd_log_n=0.0, n_params=Interval(lo=same, hi=same), reason=reason)
    if len(log_n) < 2:
        left_out = "; ".join(f"{entry.choice}: {entry.refused}" for entry in of_factor if entry.refused is not None)
        only = f"only {kept[0].choice} stands" if kept else "no choice stands"
        if not left_out:
            left_out = {"counting": "the table holds no other count of N"}.get(factor, "there is no other choice")
        return Contribution(factor=factor, sd_log_n=None, n_params=None, reason=f"{only}; {left_out}")
    names = ", ".join(entry.choice for entry in kept)
    return Contribution(
        factor=factor,
        sd_log_n=float(log_n.std()),
        n_params=Interval(lo=float(np.exp(log_n.min())), hi=float(np.exp(log_n.max()))),
        reason=f"varied over {names}",
    )


def _choice(tried: _Tried) -> Choice:
    best, drawn = tried.best, tried.drawn
    return Choice(
        factor=tried.factor,
        choice=tried.choice,
        used=tried.used,
        joined=_joins(tried),
        reason=tried.refused,
        n_params=None if best is None else float(best.n_params),
        n_tokens=None if best is None else float(best.n_tokens),
        loss=None if best is None else float(best.loss),
        cost=None if best is None else float(best.cost),
        ci95=None if drawn is None else _intervals(drawn),
        sd_log_n=None if drawn is None else _sd(drawn.n_params),
    )


def _intervals(drawn: Pick) -> dict[str, Interval]:
    return {name: interval(values) for name, values in zip(Pick._fields, drawn, strict=True)}


def _sd(n_params: Array) -> float | None:
    """Of ln N, over the draws that have an answer."""
    known = n_params[np.isfinite(n_params)]
    return float(np.log(known).std()) if len(known) > 1 else None


def _common_count(table: RunTable, fit: Fit) -> str:
    """All parameters where the table can tell them from what was fitted, since counts must compare."""
    try:
        convert(table, float(fit.points[0].n_params), fit.counting, COUNTING[0])
    except UserError:
        return fit.counting
    return COUNTING[0]


def _counted(found: Pick, table: RunTable, from_rule: str, to_rule: str) -> Pick:
    known = np.isfinite(found.n_params)
    some = np.where(known, found.n_params, 1.0)
    return found._replace(n_params=np.where(known, convert(table, some, from_rule, to_rule).value, np.inf))
