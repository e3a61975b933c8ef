"""How each of Hoffmann et al.'s three approaches reads its optimum off the runs, and off resamples of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.counting import run_flops
from analysis.fitting.bootstrap import Draws, draw, seed_noise
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.optima.envelope import MIN_SIZES, EnvelopeDesign
from analysis.optima.isoflop import CUBIC_DIFFERS, isoflop, parabolas
from analysis.optima.optimum import compute_optimum
from analysis.optima.power_laws import MIN_LOSS_POINTS, LossCurves, PowerLaws, loss_curves, power_laws
from analysis.results import (
    Approach,
    Array,
    Envelope,
    EnvelopePoint,
    Estimate,
    Excluded,
    Fit,
    Isoflop,
    Resampling,
    TokenCost,
)
from analysis.runs.table import RunTable
from analysis.words import flops as say_flops
from analysis.words import times

#: Share of resamples that must still give a power law; with fewer the intervals come from noise on the measured losses.
MIN_SOUND = 0.95
NAMES: dict[int, Literal["envelope", "isoflop", "surface"]] = {1: "envelope", 2: "isoflop", 3: "surface"}
NO_BUDGETS = (
    "no run declares a compute budget (flops_budget), by which bowls are grouped; runs of nearly equal FLOPs are not merged, "
    "since what counts as near would decide the vertices"
)

NOTHING_REPEATS = "optima are told for fresh tokens: nothing repeats"


class _Optima(NamedTuple):
    """What an approach reads off K versions of the losses."""

    n_opt: PowerLaws
    d_opt: PowerLaws
    loss: LossCurves


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The runs that all three see, and how they are read."""

    table: RunTable
    runs: pd.DataFrame
    counting: str
    train_flops: TokenCost
    flops: float
    bootstrap: int
    resampling: str
    seed: int
    uncounted: tuple[Excluded, ...]


def absent_approach(number: Literal[1, 2, 3], seen: Seen, why: str, n_runs: int | None = None) -> Approach:
    return Approach(
        number=number,
        name=NAMES[number],
        counting=seen.counting,
        n_runs=len(seen.runs) if n_runs is None else n_runs,
        n_opt_exponent=None,
        d_opt_exponent=None,
        n_opt=None,
        d_opt=None,
        loss=None,
        params={},
        ci95=None,
        objective="lsq_log",
        objective_value=float("nan"),
        resampling=None,
        absent={"all": why},
        warnings=(),
    )


def by_envelope(seen: Seen, residual_sd: float | None) -> tuple[Approach, Envelope | None]:
    runs = seen.runs
    n_params, n_tokens, loss = (runs[name].to_numpy(dtype=np.float64) for name in (seen.counting, "n_tokens", "loss"))
    flops = run_flops(runs, seen.counting, seen.train_flops)
    design = EnvelopeDesign(n_params, n_tokens, flops)
    if len(design.sizes) < MIN_SIZES:
        return absent_approach(
            1,
            seen,
            f"{len(design.sizes)} of {len(np.unique(n_params))} sizes were trained at two budgets or more; an envelope needs "
            f"{MIN_SIZES} curves of loss against compute",
        ), None

    def read(log_loss_Kn: Array, weight_Kn: Array) -> _Optima:
        found = design.evaluate(log_loss_Kn, weight_Kn)
        inside = found.interior_KG & (found.sizes_K() > 1)[:, None]
        return _Optima(
            power_laws(found.log_flops_G, np.where(inside, found.log_n_KG, np.nan)),
            power_laws(found.log_flops_G, np.where(inside, found.log_d_KG, np.nan)),
            loss_curves(found.log_flops_G, np.where(inside, np.exp(found.log_loss_KG), np.nan)),
        )

    weight = runs["weight"].to_numpy(dtype=np.float64)
    drawn = design.evaluate(np.log(loss)[None], weight[None])
    n_sizes = int(drawn.sizes_K()[0])
    shown = np.flatnonzero(~np.isnan(drawn.log_loss_KG[0]))
    envelope = Envelope(
        points=tuple(
            EnvelopePoint(
                flops=float(np.exp(drawn.log_flops_G[g])),
                n_params=float(np.exp(drawn.log_n_KG[0, g])),
                n_tokens=float(np.exp(drawn.log_d_KG[0, g])),
                loss=float(np.exp(drawn.log_loss_KG[0, g])),
                edge=bool(drawn.edge_KG[0, g]),
            )
            for g in shown
        ),
        n_sizes=n_sizes,
    )
    if n_sizes < MIN_SIZES:
        return absent_approach(
            1,
            seen,
            f"the envelope passes through {n_sizes} of the sizes that have a smaller and a larger one beside them at the same "
            f"budget; {MIN_SIZES} are needed",
        ), envelope
    warnings = []
    at_edge = float(drawn.edge_KG[0][shown].mean())
    if at_edge > 0:
        warnings.append(
            f"at {at_edge:.0%} of the budgets the best size is the smallest or the largest trained there; they are left out"
        )
    measured = np.log(loss)
    return _approach(1, seen, runs, read, predicted_n=measured, residual_sd=residual_sd, warnings=warnings), envelope


def by_isoflop(seen: Seen, residual_sd: float | None) -> tuple[Approach, Isoflop | None]:
    bowls = isoflop(seen.table, seen.train_flops, counting=seen.counting)
    if bowls is None:
        return absent_approach(2, seen, NO_BUDGETS, 0), None
    runs = seen.runs[seen.runs["flops_budget"].notna()]
    trusted = [vertex for vertex in bowls.vertices if vertex.flag is None]
    if len(trusted) < 2:
        reasons = "; ".join(bowls.skipped) or "one budget is declared"
        return absent_approach(
            2,
            seen,
            f"{len(trusted)} of {len(bowls.vertices)} budgets have a vertex, and 2 are needed: {reasons}",
            len(runs),
        ), bowls
    budget, n_params, loss = (runs[name].to_numpy(dtype=np.float64) for name in ("flops_budget", seen.counting, "loss"))
    members = []
    for vertex in trusted:
        at = np.flatnonzero(budget == vertex.flops_budget)
        sizes, of = np.unique(n_params[at], return_inverse=True)
        members.append((at, np.log(sizes) - vertex.ln_n_centre, vertex.ln_n_centre, np.eye(len(sizes))[of.ravel()]))
    log_c = np.log([vertex.flops_budget for vertex in trusted])

    def read(log_loss_Kn: Array, weight_Kn: Array) -> _Optima:
        log_n, least = [], []
        for at, x_S, centre, one_hot_nS in members:
            weight = np.broadcast_to(weight_Kn[:, at], (max(len(log_loss_Kn), len(weight_Kn)), len(at)))
            total = weight @ one_hot_nS
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = ((weight * np.exp(log_loss_Kn[:, at])) @ one_hot_nS) / total
            drawn = parabolas(x_S, mean, total)
            sound = np.array([flag is None for flag in drawn.flags_K])
            log_n.append(np.where(sound, drawn.x_K + centre, np.nan))
            least.append(np.where(sound, drawn.loss_K, np.nan))
        log_n_KM = np.stack(log_n, axis=1)
        per_token = np.log(seen.train_flops(np.exp(log_n_KM)))
        return _Optima(
            power_laws(log_c, log_n_KM),
            power_laws(log_c, log_c - per_token),
            loss_curves(log_c, np.stack(least, axis=1)),
        )

    predicted, spare = loss.copy(), 0
    for vertex in bowls.vertices:
        if vertex.coefficients is not None:
            at = budget == vertex.flops_budget
            predicted[at] = np.polyval(vertex.coefficients[::-1], np.log(n_params[at]) - vertex.ln_n_centre)
            spare += int(at.sum()) - 3
    residual = np.log(predicted / loss)
    if spare > 0 and residual @ residual > 0:
        residual_sd = float(np.sqrt(residual @ residual / spare))
    warnings = [f"left out: {reason}" for reason in bowls.skipped]
    if len(trusted) == 2:
        warnings.append(
            "approach 2 rests on two vertices, which lie on a line whatever they are: nothing says how far off a power law is"
        )
    warnings += [
        f"at {say_flops(vertex.flops_budget)} a cubic puts the vertex at {times(vertex.cubic.ratio)} the parabola's N, further "
        f"off than {CUBIC_DIFFERS:g}x: the bowl is lopsided, and the parabola biased"
        for vertex in trusted
        if vertex.cubic is not None and vertex.cubic.differs
    ]
    return _approach(
        2, seen, runs, read, predicted_n=np.log(predicted), residual_sd=residual_sd, warnings=warnings
    ), bowls


def _approach(
    number: Literal[1, 2],
    seen: Seen,
    runs: pd.DataFrame,
    read: Callable[[Array, Array], _Optima],
    *,
    predicted_n: Array,
    residual_sd: float | None,
    warnings: list[str],
) -> Approach:
    """The record of approach 1 or 2: what `read` finds in the measured losses, and the spread of what it finds in resamples."""
    loss, weight = runs["loss"].to_numpy(dtype=np.float64), runs["weight"].to_numpy(dtype=np.float64)
    here = read(np.log(loss)[None], weight[None])
    absent: dict[str, str] = {}
    sampled = resampling = None
    if seen.bootstrap:
        sampled, resampling = _resampled(seen, runs, read, predicted_n, residual_sd)
        if sampled is None:
            absent["ci95"] = (
                "resamples of the runs leave too few optima, and no noise is known to redraw the losses with: no seeds repeat "
                "and no law was fitted"
            )

    def estimate(of: Callable[[_Optima], Array]) -> Estimate:
        drawn = None if sampled is None else of(sampled)
        told = drawn is not None and np.isfinite(drawn).mean() >= MIN_SOUND
        return Estimate(value=float(of(here)[0]), ci95=interval(drawn) if drawn is not None and told else None)

    parts: dict[str, Callable[[_Optima], Array]] = {
        "n_opt_coefficient": lambda o: np.exp(o.n_opt.log_coefficient_K),
        "n_opt_exponent": lambda o: o.n_opt.exponent_K,
        "d_opt_coefficient": lambda o: np.exp(o.d_opt.log_coefficient_K),
        "d_opt_exponent": lambda o: o.d_opt.exponent_K,
    }
    told = {name: estimate(of) for name, of in parts.items()}
    loss_at = estimate(lambda o: o.loss.at(seen.flops))
    if not np.isfinite(loss_at.value):
        absent["loss"] = f"a curve of loss against compute takes {MIN_LOSS_POINTS} optima"
    elif sampled is not None and loss_at.ci95 is None:
        absent["loss_ci95"] = (
            f"too few resamples keep the {MIN_LOSS_POINTS} optima that a curve of loss against compute takes"
        )
    intervals = {name: one.ci95 for name, one in told.items() if one.ci95 is not None}
    return Approach(
        number=number,
        name=NAMES[number],
        counting=seen.counting,
        n_runs=len(runs),
        n_opt_exponent=told["n_opt_exponent"],
        d_opt_exponent=told["d_opt_exponent"],
        n_opt=estimate(lambda o: np.exp(o.n_opt.at(seen.flops))),
        d_opt=estimate(lambda o: np.exp(o.d_opt.at(seen.flops))),
        loss=loss_at if "loss" not in absent else None,
        params={name: one.value for name, one in told.items()},
        ci95=intervals or None,
        objective="lsq_log",
        objective_value=float(here.n_opt.squares_K[0] + here.d_opt.squares_K[0]),
        resampling=resampling,
        absent=absent,
        warnings=tuple(warnings),
    )


def _resampled(
    seen: Seen,
    runs: pd.DataFrame,
    read: Callable[[Array, Array], _Optima],
    predicted_n: Array,
    residual_sd: float | None,
) -> tuple[_Optima | None, Resampling | None]:
    """Resamples as the surface is resampled, where they leave enough of the optima; else noise on the losses."""
    noise = seed_noise(runs)
    sd = max(noise.sd if noise else 0.0, residual_sd or 0.0)

    def drawn_by(resampling: str) -> Draws:
        return draw(
            runs,
            np.exp(predicted_n),
            sd,
            counting=seen.counting,
            draws=seen.bootstrap,
            seed=seen.seed,
            resampling=resampling,
        )

    drawn = drawn_by(seen.resampling)
    found = read(drawn.log_loss_Kn, drawn.weight_Kn)
    sound = float(np.isfinite(found.n_opt.exponent_K).mean())
    if sound >= MIN_SOUND and not (drawn.resampling.method == "parametric" and sd == 0):
        return found, drawn.resampling
    if sd == 0:
        return None, None
    redrawn = drawn_by("parametric")
    return read(redrawn.log_loss_Kn, redrawn.weight_Kn), replace(
        redrawn.resampling,
        reason=f"Losses were redrawn with noise of {sd:.2%}, since only {sound:.0%} of the resamples of runs left two optima.",
    )


def by_surface(seen: Seen, fit: Fit) -> Approach:
    law = get_law(fit.law)

    @np.errstate(all="ignore")
    def estimates(params_KP: Array) -> dict[str, Array]:
        # A draw that ended on a bound has no optimum: NaN, which intervals leave out.
        n_opt, d_opt = compute_optimum(law, params_KP, seen.flops, seen.train_flops)
        n_more, d_more = compute_optimum(law, params_KP, seen.flops * np.e, seen.train_flops)
        return {
            "n_opt_exponent": np.log(n_more / n_opt),
            "d_opt_exponent": np.log(d_more / d_opt),
            "n_opt": n_opt,
            "d_opt": d_opt,
            "loss": law.predict(params_KP, n_opt, d_opt),
        }

    here = estimates(law.as_vector(fit.params))
    sampled = None if fit.draws_KP is None else estimates(fit.draws_KP)
    told = {
        name: Estimate(value=float(value), ci95=None if sampled is None else interval(sampled[name]))
        for name, value in here.items()
    }
    bad = [name for name, one in told.items() if not np.isfinite(one.value)]
    if bad:
        bounds = ", ".join(fit.convergence.bound_hits) or "an amplitude is 0"
        return absent_approach(3, seen, f"the law {fit.law} has no {bad[0]} at {say_flops(seen.flops)}: {bounds}")
    return Approach(
        number=3,
        name=NAMES[3],
        counting=seen.counting,
        n_runs=fit.n_runs,
        n_opt_exponent=told["n_opt_exponent"],
        d_opt_exponent=told["d_opt_exponent"],
        n_opt=told["n_opt"],
        d_opt=told["d_opt"],
        loss=told["loss"],
        params=fit.params,
        ci95=fit.ci95,
        objective=fit.objective,
        objective_value=fit.objective_value,
        resampling=fit.resampling,
        absent={},
        warnings=(*fit.warnings, *((NOTHING_REPEATS,) if law.uses_unique_tokens else ())),
    )
