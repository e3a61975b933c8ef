"""Fitting a law to a table of runs: `fit`. Exact to the optimum, with its evidence, its intervals and its held-out error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting import evidence, outliers
from analysis.fitting.bootstrap import RESAMPLINGS, refit
from analysis.fitting.design import check_condition, check_design, impossible
from analysis.fitting.learning_rates import at_the_tuned_rates, off_rate, rate_warnings
from analysis.fitting.loss_units import check_outlying_units, check_units
from analysis.fitting.noise_model import noise_model, noise_scale_at, noise_warnings, noise_weights
from analysis.fitting.objective import Objective
from analysis.fitting.options import DEFAULTS, FitOptions, complete
from analysis.fitting.run_arrays import RunArrays, data_digest
from analysis.fitting.solver import Solution, minimise
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.laws.base import Array, Law, Problem
from analysis.results import Excluded, Exponents, Fit, FittedPoint, FittedRange, HeldOut, Interval
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
        model = noise_model(frame, counting, table.source) if weights == "noise" else None
        runs, held_out = RunArrays.of(frame, counting), RunArrays.of(held_out_frame, counting)
        warnings = list(best_rate.warnings)
        if model is not None:
            warnings += noise_warnings(model, runs.n_params, runs.weight)
            runs = runs.weighted(noise_weights(model, runs.n_params, goal), noise_scale_at(model, runs.n_params))
        digest = data_digest(runs, held_out, counting)
        try:
            _check(chosen, runs)
        except UserError as error:
            gone = best_rate.left_out_words()
            raise UserError(f"{error} ({gone})" if gone else str(error)) from None
        unit_unsaid = bool((frame["loss_unit"] == "").any())
        if unit_unsaid:
            check_units(runs.n_params, runs.n_tokens, runs.loss, runs.names)
        solved = _solve(chosen, goal, runs)
        noise_scale = runs.noise_scale
        if unit_unsaid:
            residual = solved.residual(runs)
            off = outliers.outlying(
                residual, noise_scale, outliers.robust_sd(residual / noise_scale, len(solved.params))
            )
            check_outlying_units(residual, off, runs.names)
        kept, solved, sd = _drop(chosen, goal, runs, solved, noise_scale, drop_outliers)
        residual = solved.residual(runs)
        off = outliers.outlying(residual, noise_scale, sd)
        dropped = outliers.records(frame[~kept], residual[~kept], noise_scale[~kept], sd)
        staying = outliers.records(frame[kept & off], residual[kept & off], noise_scale[kept & off], sd)
        all_runs, runs = runs, runs.only(kept)
        frame = runs.frame
        params, predicted, residual = solved.params, solved.predict(runs), residual[kept]
        standard = residual / runs.noise_scale
        residual_sd = float(np.sqrt((standard**2).sum() / max(1, len(residual) - len(params))))
        proof = evidence.gather(chosen, solved.problem, solved.solution, solved.best)
        rates = off_rate(table, frame, counting)
        warnings += [
            *evidence.doubts(proof, converged=solved.converged, exact=residual_sd < outliers.ROUNDING),
            *outliers.warnings(staying, dropped, len(frame), sd),
            *outliers.edge_warnings(all_runs.frame[~kept], frame, counting),
            *evidence.about_law(chosen, runs, counting),
            *evidence.misfit(frame, residual_sd),
            *rate_warnings(rates),
        ]
        sample = None
        if bootstrap:
            sample = refit(
                solved.problem,
                goal,
                solved.theta,
                frame,
                predicted,
                residual_sd,
                counting=counting,
                draws=bootstrap,
                seed=seed,
                resampling=resampling,
            )
            if sample.unconverged > 0.01 * bootstrap:
                warnings.append(
                    f"{sample.unconverged} of {bootstrap} resamples stopped short of their optimum; intervals may be too narrow"
                )
        values = params if sample is None else sample.params_KP
        n_opt, d_opt = chosen.exponents(params)
        found = Fit(
            law=chosen.name,
            objective=goal.name,
            delta=goal.delta,
            counting=counting,
            n_runs=len(frame),
            n_sizes=len(np.unique(runs.n_params)),
            params=dict(zip(chosen.parameter_names, params.tolist(), strict=True)),
            ci95=None
            if sample is None
            else {
                name: interval(values[:, column])
                for column, name in enumerate(chosen.parameter_names)
                if name not in proof.unfelt
            },
            objective_value=float(solved.solution.value_K[solved.best]),
            exponents=Exponents(
                n_opt=float(n_opt),
                d_opt=float(d_opt),
                ci95=None
                if sample is None
                else dict(zip(("n_opt", "d_opt"), map(interval, chosen.exponents(values)), strict=True)),
            ),
            residual_sd=residual_sd,
            convergence=proof,
            resampling=None if sample is None else sample.resampling,
            draws_KP=None if sample is None else sample.params_KP,
            held_out=_held_out_error(solved, held_out),
            points=_points(solved, runs, held_out),
            fitted_range=FittedRange(
                n_params=_range(runs.n_params),
                n_tokens=_range(runs.n_tokens),
                tokens_per_param=_range(runs.n_tokens / runs.n_params),
                n_times_d=_range(runs.n_params * runs.n_tokens),
                loss=_range(runs.loss),
            ),
            excluded=(*best_rate.excluded, *uncounted, *outliers.as_excluded(dropped)),
            warnings=tuple(warnings),
            weights="noise" if model is not None else "column",
            noise_model=model,
            outlier_rule=outliers.RULE,
            outliers=staying,
            dropped=dropped,
            off_rate=rates,
            data_digest=digest,
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


@dataclass(frozen=True, kw_only=True)
class _Solved:
    """The optimum of a law on some runs."""

    law: Law
    problem: Problem
    solution: Solution
    best: int
    params: Array

    @property
    def theta(self) -> Array:
        return np.asarray(self.solution.theta_KP[self.best])

    @property
    def converged(self) -> bool:
        return bool(self.solution.converged_K[self.best])

    def predict(self, runs: RunArrays) -> Array:
        return self.law.predict(self.params, runs.n_params, runs.n_tokens, runs.unique_or_inf)

    def residual(self, runs: RunArrays) -> Array:
        return np.asarray(np.log(self.predict(runs) / runs.loss))


@contextmanager
def _computable(law: Law, source: str) -> Iterator[None]:
    """Powers of extreme numbers overflow on the way, which the solver refuses as a step and `_finite` as a result."""
    try:
        with np.errstate(all="ignore"):
            yield
    except np.linalg.LinAlgError as error:
        raise UserError(f"the law {law.name} can't be computed on the runs of {source}: {error}") from None


def _check(law: Law, runs: RunArrays) -> None:
    check_design(runs.n_params, runs.n_tokens, runs.loss, law)
    law.check(runs.n_params, runs.n_tokens, runs.unique_tokens)
    check_condition(law, runs.n_params, runs.n_tokens, runs.unique_tokens)


def _solve(law: Law, goal: Objective, runs: RunArrays) -> _Solved:
    problem = law.problem(runs.n_params, runs.n_tokens, runs.loss, runs.unique_tokens)
    scaled = runs.loss / problem.scale
    starts = problem.starts(scaled, runs.weight)
    solution = minimise(problem, goal, scaled[None], runs.weight[None], starts, goal.stages)
    best = int(np.argmin(solution.value_K))
    return _Solved(
        law=law,
        problem=problem,
        solution=solution,
        best=best,
        params=problem.to_params(solution.theta_KP[best][None])[0],
    )


def _drop(
    law: Law, goal: Objective, runs: RunArrays, solved: _Solved, noise_scale_n: Array, drop: bool
) -> tuple[NDArray[np.bool_], _Solved, float]:
    """Which runs stay, the law through these, and its robust sd; without `drop` all stay."""
    kept = np.ones(len(runs.loss), dtype=np.bool_)
    for round_number in range(outliers.MAX_ROUNDS + 1):
        residual = solved.residual(runs)
        sd = outliers.robust_sd((residual / noise_scale_n)[kept], len(solved.params))
        off = outliers.outlying(residual, noise_scale_n, sd)
        if not drop or round_number == outliers.MAX_ROUNDS or not (off & kept).any():
            break
        kept = kept & ~off
        fewer = runs.only(kept)
        try:
            _check(law, fewer)
        except UserError as error:
            raise UserError(f"without the {int((~kept).sum())} outliers: {error}") from None
        solved = _solve(law, goal, fewer)
    return kept, solved, sd


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


def _held_out_error(solved: _Solved, held_out: RunArrays) -> HeldOut | None:
    if not len(held_out.loss):
        return None
    error = np.abs(solved.predict(held_out) / held_out.loss - 1)
    return HeldOut(n=len(error), mean_abs_rel_error=float(error.mean()), max_abs_rel_error=float(error.max()))


def _points(solved: _Solved, runs: RunArrays, held_out: RunArrays) -> tuple[FittedPoint, ...]:
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


def _range(values: Array) -> Interval:
    return Interval(lo=float(values.min()), hi=float(values.max()))
