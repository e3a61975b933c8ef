"""The whole uncertainty of a decision: what sampling and noise leave open, and what analysts' choices add to it.

A bootstrap shows what other draws of the runs would say under one objective, one law, one count. On 240 published runs the
choice of objective alone moves the compute-optimal size as far as that (Besiroglu et al. 2024, arXiv 2404.10102). So the fit is
repeated under every other choice, one at a time. What a choice moves the decision by is then laid over every draw, each factor
on top of the others:

    ln N = ln N of a draw + sum over factors of (ln N of a choice - ln N as fitted)

with every combination of the choices that the runs don't reject, all alike. So the joint interval is never narrower than what
sampling alone leaves: its variance is the sum of sampling's and of each factor's. D and cost move by their logarithms too, the
loss by differences.

A law whose AIC is more than 10 above the best one's is rejected by the runs and has no part in this, the one that was asked
for no more than another: then the draws are those of the law that the runs prefer, and the interval need not hold the size
that was recommended. The recommendation stays with the law that was asked for, and says so first.
"""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING, Unpack

import numpy as np

from analysis.decisions.choose import Pick
from analysis.decisions.trials import AIC_REJECTS, Trials, Tried, common_count
from analysis.fitting.options import FitOptions
from analysis.intervals import interval
from analysis.results import Array, Choice, Contribution, Factor, Fit, Interval, Uncertainty
from analysis.runs.table import RunTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from analysis.decisions.choose import Setting

#: Runs times draws a choice: more runs, fewer draws, so that a decision stays a matter of seconds.
DRAWS, LEAST_DRAWS, RUN_DRAWS = 300, 100, 72_000
#: Those of the fit that the joint interval lays the choices over: combinations times this many.
JOINT_DRAWS = 1000
FACTORS: tuple[Factor, ...] = ("sampling", "seed", "objective", "outliers", "law", "counting")


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
    trials = Trials(
        table=table,
        fit=fit,
        setting=setting,
        draws=draws,
        counting=common_count(table, fit),
        options=fit_options,
    )
    base = trials.own("sampling", "as fitted")
    seeds, why_no_seeds = trials.seeds(base) if draws else (None, "no bootstrap was asked for")
    laws, preferred, excess = trials.laws()
    tried = [*trials.objectives(), *trials.outliers(), *laws, *trials.counts()]
    rejected = excess > AIC_REJECTS
    anchor = preferred if rejected and preferred.joins else base
    joint = _joint(tried, base, anchor, setting(trials.counting).sizes) if draws else None
    return Uncertainty(
        decision="lifetime_optimal" if setting(fit.counting).demand_tokens else "training_optimal",
        counting=trials.counting,
        contributions=(
            _over_draws("sampling", base, fit.resampling.reason if fit.resampling else "no bootstrap was asked for"),
            _over_draws("seed", seeds, why_no_seeds),
            *(_over_choices(factor, tried) for factor in FACTORS[2:]),
        ),
        choices=tuple(map(_choice, tried)),
        joint=None if joint is None else _intervals(joint),
        sd_log_n=None if joint is None else _sd(joint.n_params),
        draws=draws,
        preferred=_choice(preferred) if rejected else None,
        warnings=(_against(fit.law, preferred.choice, excess),) if rejected else (),
    )


def _against(law: str, preferred: str, excess: float) -> str:
    return (
        f"the runs speak against the law {law}: its AIC is {excess:.0f} above that of {preferred}; ask again with "
        f"--law {preferred}"
    )


def _joint(tried: list[Tried], base: Tried, anchor: Tried, sizes: Interval | None) -> Pick | None:
    """The draws of `anchor` with every combination of choices laid over each, its sizes within those allowed."""
    if anchor.drawn is None or anchor.best is None or base.best is None:
        return None
    drawn = [_scale(field, values[:JOINT_DRAWS]) for field, values in zip(Pick._fields, anchor.drawn, strict=True)]
    for factor in FACTORS[2:]:
        about = anchor.best if factor == "law" else base.best
        kept = [entry.best for entry in tried if entry.factor == factor and entry.joins and entry.best is not None]
        if not kept:
            continue
        for at, field in enumerate(Pick._fields):
            shift = np.array([float(_scale(field, best[at]) - _scale(field, about[at])) for best in kept])
            drawn[at] = (drawn[at][:, None] + shift).ravel()
    joint = Pick(*starmap(_unscale, zip(Pick._fields, drawn, strict=True)))
    if sizes is None:
        return joint
    known = np.isfinite(joint.n_params)
    return joint._replace(n_params=np.where(known, np.clip(joint.n_params, sizes.lo, sizes.hi), joint.n_params))


def _scale(field: str, value: Array) -> Array:
    """What shifts are added in: logarithms, but of the loss itself."""
    return np.asarray(value if field == "loss" else np.log(value))


def _unscale(field: str, value: Array) -> Array:
    return np.asarray(value if field == "loss" else np.exp(value))


def _over_draws(factor: Factor, tried: Tried | None, reason: str) -> Contribution:
    if tried is None or tried.drawn is None:
        return Contribution(factor=factor, sd_log_n=None, n_params=None, reason=reason)
    drawn = tried.drawn.n_params
    return Contribution(factor=factor, sd_log_n=_sd(drawn), n_params=interval(drawn), reason=reason)


def _over_choices(factor: Factor, tried: list[Tried]) -> Contribution:
    of_factor = [entry for entry in tried if entry.factor == factor]
    kept = [entry for entry in of_factor if entry.joins]
    log_n = np.array([entry.log_n for entry in kept if entry.log_n is not None])
    if factor == "outliers" and len(of_factor) == 1:
        same = float(np.exp(log_n[0])) if len(log_n) else np.nan
        return Contribution(
            factor=factor, sd_log_n=0.0, n_params=Interval(lo=same, hi=same), reason="no run is an outlier"
        )
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


def _choice(tried: Tried) -> Choice:
    best, drawn = tried.best, tried.drawn
    return Choice(
        factor=tried.factor,
        choice=tried.choice,
        used=tried.used,
        joined=tried.joins,
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
