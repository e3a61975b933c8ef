"""Fitting a law to a table of runs: `fit`. Exact to the optimum, with its evidence, its intervals and its held-out error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Unpack

import numpy as np
import pandas as pd

from analysis.fitting import evidence, outliers
from analysis.fitting.bootstrap import RESAMPLINGS, Sample, refit
from analysis.fitting.design import impossible
from analysis.fitting.learning_rates import at_the_tuned_rates, off_rate, rate_warnings
from analysis.fitting.noise_model import noise_model, noise_scale_at, noise_warnings, noise_weights
from analysis.fitting.objective import Objective
from analysis.fitting.options import DEFAULTS, FitOptions, complete
from analysis.fitting.run_arrays import RunArrays, data_digest
from analysis.fitting.solved import Kept, Solved, check_runs, keep
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.laws.base import Array, Law
from analysis.results import (
    Convergence,
    Excluded,
    Exponents,
    Fit,
    FittedPoint,
    FittedRange,
    HeldOut,
    Interval,
    NoiseModel,
)
from analysis.runs.table import COUNTING, RunTable, kind_of
from llama.errors import UserError

WEIGHTS = ("column", "noise")


def fit(
    table: RunTable,
    *,
    law: str = DEFAULTS["law"],
    objective: str = DEFAULTS["objective"],
    delta: float = DEFAULTS["delta"],
    counting: str = DEFAULTS["counting"],
    weights: str = DEFAULTS["weights"],
    bootstrap: int = DEFAULTS["bootstrap"],
    resampling: str = DEFAULTS["resampling"],
    seed: int = DEFAULTS["seed"],
    drop_outliers: bool = DEFAULTS["drop_outliers"],
    drop_off_rate: bool = DEFAULTS["drop_off_rate"],
) -> Fit:
    """Fit a law to the usable, not held-out runs of `table`, and predict the held-out ones.

    Of a size and length trained at several learning rates only the best enters (`RunTable.at_the_best_rate`).

    Args:
        law: name in `analysis.laws`.
        objective: huber_log, lad_log, lsq_log or lsq, summed over runs (`analysis.fitting.objective`).
        delta: Huber's threshold on the log residual.
        counting: the column that N is: n_params, n_params_non_embedding or n_params_matmul.
        weights: `column`, the table's own, or `noise`, by the noise between seeds as a power of N (`noise_model`).
        bootstrap: resamples for the intervals; 0 for none.
        resampling: group, parametric, run, residual, or auto: by what the table allows (`analysis.fitting.bootstrap`).
        seed: of the resampling.
        drop_outliers: take out the runs that lie too far off (`outliers` states the rule), fit again, and go on
            until none does. Otherwise they are named and stay.
        drop_off_rate: take out the sizes that were trained far from the tuned learning rate (`learning_rates` states the
            rule). Otherwise they are named and stay.

    Raises:
        UserError: an unknown name, a count that the runs lack, a design that can't identify the law, or losses that look
            like two units where not every run states its own (`loss_unit`).
    """
    check_options(
        law=law,
        objective=objective,
        delta=delta,
        counting=counting,
        weights=weights,
        bootstrap=bootstrap,
        resampling=resampling,
        seed=seed,
    )
    chosen, goal = get_law(law), Objective(name=objective, delta=delta)
    best_rate = table.at_the_best_rate()
    if drop_off_rate:
        best_rate = at_the_tuned_rates(best_rate, counting)
    frame, held_out_frame, uncounted = _select(best_rate, counting)
    with _computable(chosen, table.source):
        runs, model, warnings = _weighted(RunArrays.of(frame, counting), counting, weights, goal, table.source)
        held_out = RunArrays.of(held_out_frame, counting)
        try:
            check_runs(chosen, runs)
        except UserError as error:
            held = len(best_rate.usable) - len(best_rate.fitted)
            kept_out = f"{held} of {len(best_rate.frame)} are held out, to be predicted" if held else ""
            gone = "; ".join(words for words in (best_rate.left_out_words(), kept_out) if words)
            raise UserError(f"{error} ({gone})" if gone else str(error)) from None
        kept = keep(chosen, goal, runs, drop=drop_outliers)
        sample = None
        if bootstrap:
            sample = refit(
                kept.solved.problem,
                goal,
                kept.solved.theta,
                kept.runs.frame,
                kept.solved.predict(kept.runs),
                kept.residual_sd,
                counting=counting,
                draws=bootstrap,
                seed=seed,
                resampling=resampling,
            )
        rates = off_rate(table, kept.runs.frame, counting)
        proof = evidence.gather(chosen, kept.solved.problem, kept.solved.solution, kept.solved.best)
        found = Fit(
            law=chosen.name,
            objective=goal.name,
            delta=goal.delta,
            counting=counting,
            n_runs=len(kept.runs.loss),
            n_sizes=len(np.unique(kept.runs.n_params)),
            params=dict(zip(chosen.parameter_names, kept.solved.params.tolist(), strict=True)),
            ci95=None if sample is None else _intervals(chosen, sample, proof),
            objective_value=float(kept.solved.solution.value_K[kept.solved.best]),
            exponents=_exponents(chosen, kept.solved.params, sample),
            residual_sd=kept.residual_sd,
            convergence=proof,
            resampling=None if sample is None else sample.resampling,
            draws_KP=None if sample is None else sample.params_KP,
            held_out=_held_out_error(kept.solved, held_out),
            points=_points(kept.solved, kept.runs, held_out),
            fitted_range=_fitted_range(kept.runs),
            excluded=(*best_rate.excluded, *uncounted, *outliers.as_excluded(kept.dropped)),
            warnings=(
                *best_rate.warnings,
                *warnings,
                *_warnings(kept, proof, counting),
                *rate_warnings(rates),
                *_unconverged(sample),
            ),
            weights="noise" if model is not None else "column",
            noise_model=model,
            outlier_rule=outliers.RULE,
            outliers=kept.staying,
            dropped=kept.dropped,
            off_rate=rates,
            data_digest=data_digest(runs, held_out, counting),
        )
        return _finite(found, table.source)


def check_options(**options: Unpack[FitOptions]) -> None:
    """Refuse options that no table could be fitted with.

    Raises:
        UserError: an unknown name or an impossible number, with what would be right.
    """
    asked = complete(options)
    get_law(asked["law"])
    Objective(name=asked["objective"], delta=asked["delta"])
    for value, known, what in (
        (asked["counting"], COUNTING, "counting rule is"),
        (asked["weights"], WEIGHTS, "weights are"),
        (asked["resampling"], RESAMPLINGS, "resampling is"),
    ):
        if value not in known:
            raise UserError(f"no {what} called {value!r}; there are {', '.join(known)}")
    if asked["bootstrap"] < 0:
        raise UserError(f"bootstrap is {asked['bootstrap']}; the number of resamples must be 0 or more")
    if asked["seed"] < 0:
        raise UserError(f"seed is {asked['seed']}; it must be 0 or more")


@contextmanager
def _computable(law: Law, source: str) -> Iterator[None]:
    """Powers of extreme numbers overflow on the way, which the solver refuses as a step and `_finite` as a result."""
    try:
        with np.errstate(all="ignore"):
            yield
    except np.linalg.LinAlgError as error:
        raise UserError(f"the law {law.name} can't be computed on the runs of {source}: {error}") from None


def _weighted(
    runs: RunArrays, counting: str, weights: str, goal: Objective, source: str
) -> tuple[RunArrays, NoiseModel | None, list[str]]:
    """The runs with the weights that were asked for, the noise that made them, and warnings."""
    if weights == "column":
        return runs, None, []
    model = noise_model(runs.frame, counting, source)
    said = noise_warnings(model, runs.n_params, runs.weight)
    weighted = runs.weighted(noise_weights(model, runs.n_params, goal), noise_scale_at(model, runs.n_params))
    return weighted, model, said


def _warnings(kept: Kept, proof: Convergence, counting: str) -> list[str]:
    frame = kept.runs.frame
    return [
        *evidence.doubts(proof, converged=kept.solved.converged, exact=kept.residual_sd < outliers.ROUNDING),
        *outliers.warnings(kept.staying, kept.dropped, len(frame), kept.sd),
        *outliers.edge_warnings(kept.dropped_frame, frame, counting),
        *evidence.about_law(kept.solved.law, kept.runs, counting),
        *evidence.misfit(frame, kept.residual_sd),
    ]


def _unconverged(sample: Sample | None) -> list[str]:
    if sample is None or sample.unconverged <= 0.01 * sample.resampling.draws:
        return []
    return [
        f"{sample.unconverged} of {sample.resampling.draws} resamples stopped short of their optimum; intervals may be too "
        "narrow"
    ]


def _intervals(law: Law, sample: Sample, proof: Convergence) -> dict[str, Interval]:
    """Of the parameters that the runs say anything about."""
    return {
        name: interval(sample.params_KP[:, column])
        for column, name in enumerate(law.parameter_names)
        if name not in proof.unfelt
    }


def _exponents(law: Law, params: Array, sample: Sample | None) -> Exponents:
    n_opt, d_opt = law.exponents(params)
    ci95 = None
    if sample is not None:
        ci95 = dict(zip(("n_opt", "d_opt"), map(interval, law.exponents(sample.params_KP)), strict=True))
    return Exponents(n_opt=float(n_opt), d_opt=float(d_opt), ci95=ci95)


def _select(table: RunTable, counting: str) -> tuple[pd.DataFrame, pd.DataFrame, list[Excluded]]:
    """Runs to fit, runs to predict, and the runs that lack the count asked for or hold a number that can't be meant."""
    usable = table.usable
    counted = usable[counting].notna()
    missing = usable[~counted]
    if len(missing) == len(usable) and len(usable):
        raise UserError(
            f"{table.source} holds no {counting}, which the fit was asked to count by; it knows "
            f"{', '.join(name for name in COUNTING if usable[name].notna().any())}"
        )
    excluded = _excluded(missing, [f"no {counting}"] * len(missing))
    usable = usable[counted]
    columns = (counting, "n_tokens", "loss", "weight")
    of_each = [impossible(name, usable[name].to_numpy(dtype=np.float64)) for name in columns]
    reasons = np.array([next(filter(None, row), "") for row in zip(*of_each, strict=True)], dtype=object)
    excluded += _excluded(usable[reasons != ""], [str(reason) for reason in reasons if reason])
    usable = usable[reasons == ""]
    fitted = usable[~usable["held_out"]]
    if not len(fitted):
        raise UserError(f"{table.source} has no finished run to fit{why_none(table)}")
    return fitted, usable[usable["held_out"]], excluded


def _excluded(runs: pd.DataFrame, reasons: Sequence[str]) -> list[Excluded]:
    return [
        Excluded(row=None if pd.isna(row) else int(row), run_id=str(run_id), reason=reason)
        for row, run_id, reason in zip(runs["row"], runs["run_id"], reasons, strict=True)
    ]


def why_none(table: RunTable) -> str:
    """The end of a message that a table has no run to fit: what became of them."""
    if not len(table.frame):
        return ": it has no runs"
    reasons = table.frame.loc[table.frame["excluded"] != "", "excluded"]
    if not len(reasons):
        return ": all runs are held out"
    kinds = reasons.map(kind_of)
    first = reasons[kinds == kinds.value_counts().index[0]].iloc[0]
    return f": {table.left_out_words()} (such as {first!r})"


def _held_out_error(solved: Solved, held_out: RunArrays) -> HeldOut | None:
    if not len(held_out.loss):
        return None
    error = np.abs(solved.predict(held_out) / held_out.loss - 1)
    return HeldOut(n=len(error), mean_abs_rel_error=float(error.mean()), max_abs_rel_error=float(error.max()))


def _points(solved: Solved, runs: RunArrays, held_out: RunArrays) -> tuple[FittedPoint, ...]:
    """The runs in table order."""
    points = []
    for part in (runs, held_out):
        columns = zip(
            part.frame.index,
            part.frame["run_id"],
            part.frame["name"],
            part.frame["group"],
            part.n_params.tolist(),
            part.n_tokens.tolist(),
            part.loss.tolist(),
            solved.predict(part).tolist(),
            solved.residual(part).tolist(),
            part.unique_or_inf.tolist(),
            part.weight.tolist(),
            part.noise_scale.tolist(),
            strict=True,
        )
        for index, run_id, name, group, n_params, n_tokens, loss, predicted, residual, unique, weight, scale in columns:
            point = FittedPoint(
                run_id=str(run_id),
                name=str(name),
                n_params=n_params,
                n_tokens=n_tokens,
                loss=loss,
                predicted=predicted,
                log_residual=residual,
                held_out=part is held_out,
                unique_tokens=unique,
                group=str(group),
                weight=weight,
                noise_scale=scale,
            )
            points.append((index, point))
    return tuple(point for _, point in sorted(points, key=lambda pair: pair[0]))


def _finite(found: Fit, source: str) -> Fit:
    """The fit, when all that it says is a number.

    Raises:
        UserError: something isn't.
    """
    said = {
        "the objective": found.objective_value,
        "the residuals' sd": found.residual_sd,
        "N_opt's exponent": found.exponents.n_opt,
        **found.params,
        **{f"the interval of {name}": ends.hi - ends.lo for name, ends in (found.ci95 or {}).items()},
        **{f"the interval of {name}": ends.hi - ends.lo for name, ends in (found.exponents.ci95 or {}).items()},
        **{f"the prediction of {point.name}": point.log_residual for point in found.points},
    }
    for name, value in said.items():
        if not np.isfinite(value):
            raise UserError(
                f"the law {found.law} can't be fitted to {source}: {name} comes out as {value}. Check the units of N, D and "
                "loss, and whether the runs vary enough"
            )
    return found


def _fitted_range(runs: RunArrays) -> FittedRange:
    return FittedRange(
        n_params=_range(runs.n_params),
        n_tokens=_range(runs.n_tokens),
        tokens_per_param=_range(runs.n_tokens / runs.n_params),
        n_times_d=_range(runs.n_params * runs.n_tokens),
        loss=_range(runs.loss),
    )


def _range(values: Array) -> Interval:
    return Interval(lo=float(values.min()), hi=float(values.max()))
