"""Intervals by refitting: whole groups of runs drawn again, or the fitted law with noise drawn on top.

Residuals along a trunk are not independent, so single runs are resampled only where nothing groups them (DESIGN, decision 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.design import identifies
from analysis.laws.base import Array, Problem
from analysis.objective import Objective
from analysis.results import Resampling
from analysis.solver import minimise
from llama.errors import UserError

#: How resamples may be asked for: `auto` picks by the table, `residual` redraws the law with the fit's own residuals.
RESAMPLINGS = ("auto", "group", "parametric", "run", "residual")
#: Fewer groups than this can't be resampled: the intervals then come from the noise.
MIN_GROUPS = 8
#: Share of group resamples that must still identify the law; with fewer, leaving a group out is leaving the design.
MIN_IDENTIFIED = 0.95
#: Share of the seed variance that branches of one trunk have in common, where repeated seeds can't show it.
TRUNK_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What the refits see: K rows, or one row where all K share it."""

    log_loss_Kn: Array
    weight_Kn: Array
    resampling: Resampling


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """Noise between seeds, pooled over cells of the design that have several."""

    sd: float
    """Of log loss."""
    degrees_of_freedom: int
    trunk_share: float | None
    """Share of the variance that branches of one trunk have in common; None where no two cells share trunks."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The refits of K resamples."""

    params_KP: Array
    resampling: Resampling
    unconverged: int


def refit(
    problem: Problem,
    objective: Objective,
    theta_P: Array,
    runs: pd.DataFrame,
    predicted_n: Array,
    residual_sd: float,
    *,
    counting: str,
    draws: int,
    seed: int,
    resampling: str = "auto",
) -> Sample:
    """Refit every resample from the optimum, all at once.

    Raises:
        UserError: `resampling` is unknown, or asks for groups that the runs don't have.
    """
    drawn = draw(runs, predicted_n, residual_sd, counting=counting, draws=draws, seed=seed, resampling=resampling)
    # From the optimum Huber's last stage is enough; |r| has no curvature to start from and goes through all of them.
    stages = objective.stages if objective.name == "lad_log" else objective.stages[-1:]
    start = np.repeat(theta_P[None], draws, axis=0)
    solution = minimise(problem, objective, np.exp(drawn.log_loss_Kn) / problem.scale, drawn.weight_Kn, start, stages)
    return Sample(
        params_KP=problem.to_params(solution.theta_KP),
        resampling=drawn.resampling,
        unconverged=int((~solution.converged_K).sum()),
    )


def draw(
    runs: pd.DataFrame,
    predicted_n: Array,
    residual_sd: float,
    *,
    counting: str,
    draws: int,
    seed: int,
    resampling: str = "auto",
) -> Draws:
    """K resamples of the fitted `runs` (a RunTable frame), by `resampling` or by what the table allows."""
    if resampling not in RESAMPLINGS:
        raise UserError(f"no resampling is called {resampling!r}; there are {', '.join(RESAMPLINGS)}")
    rng = np.random.default_rng(seed)
    groups = runs["group"].to_numpy(dtype=str)
    weight = runs["weight"].to_numpy(dtype=float)
    log_loss = np.log(runs["loss"].to_numpy(dtype=float))
    grouped = bool((groups != "").all())
    if resampling == "group" and not grouped:
        raise UserError(
            f"resampling by group was asked for, and {int((groups == '').sum())} of {len(runs)} runs have no group: fill the "
            "column group, or resample by run"
        )
    if resampling == "residual":
        return _residual(runs, predicted_n, draws=draws, seed=seed, rng=rng, residual_sd=residual_sd)
    if resampling == "parametric":
        alone = np.array([group or f"\n{row}" for row, group in enumerate(groups)])
        member = np.unique(alone, return_inverse=True)[1]
        return _parametric(runs, predicted_n, residual_sd, member, "as was asked", draws=draws, seed=seed, rng=rng)
    if resampling == "run" or not grouped:
        counts = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=draws)
        return Draws(
            log_loss_Kn=log_loss[None],
            weight_Kn=counts * weight,
            resampling=Resampling(
                method="run",
                draws=draws,
                seed=seed,
                groups=len(runs),
                noise_sd=None,
                reason="Single runs were resampled, "
                + ("as was asked." if resampling == "run" else "since nothing in the table groups them."),
            ),
        )
    names, member = np.unique(groups, return_inverse=True)
    why_not = f"{len(names)} groups of runs are fewer than the {MIN_GROUPS} that resampling them needs"
    if len(names) >= MIN_GROUPS:
        n_params, n_tokens = runs[counting].to_numpy(dtype=float), runs["n_tokens"].to_numpy(dtype=float)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=2 * draws)[:, member]
        sound = np.array([identifies(n_params[row > 0], n_tokens[row > 0]) for row in counts])
        if sound.mean() >= MIN_IDENTIFIED:
            return Draws(
                log_loss_Kn=log_loss[None],
                weight_Kn=counts[sound][:draws] * weight,
                resampling=Resampling(
                    method="group",
                    draws=draws,
                    seed=seed,
                    groups=len(names),
                    noise_sd=None,
                    reason=f"Whole groups of runs were resampled ({len(names)} trunks or seed groups).",
                ),
            )
        why_not = (
            f"only {sound.mean():.0%} of resamples of the {len(names)} groups of runs could still identify the law"
        )
    if resampling == "group":
        raise UserError(
            f"resampling by group was asked for, and {why_not}: resample parametrically, or leave it to auto"
        )
    return _parametric(runs, predicted_n, residual_sd, member, why_not, draws=draws, seed=seed, rng=rng)


def _parametric(
    runs: pd.DataFrame,
    predicted_n: Array,
    residual_sd: float,
    member_n: NDArray[np.intp],
    why: str,
    *,
    draws: int,
    seed: int,
    rng: np.random.Generator,
) -> Draws:
    noise = seed_noise(runs)
    if noise is None:
        sd, share = residual_sd, TRUNK_SHARE
        origin = f"the residuals' sd {sd:.2%}, since no seeds repeat"
    else:
        sd = max(noise.sd, residual_sd)
        share = TRUNK_SHARE if noise.trunk_share is None else noise.trunk_share
        origin = f"the seeds' sd {noise.sd:.2%} ({noise.degrees_of_freedom} degrees of freedom)"
        if residual_sd > noise.sd:
            origin = f"the residuals' sd {residual_sd:.2%}, which is more than {origin}"
    shared = rng.standard_normal((draws, int(member_n.max()) + 1))[:, member_n]
    own = rng.standard_normal((draws, len(runs)))
    log_loss = np.log(predicted_n) + sd * (np.sqrt(share) * shared + np.sqrt(1 - share) * own)
    return Draws(
        log_loss_Kn=log_loss,
        weight_Kn=runs["weight"].to_numpy(dtype=float)[None],
        resampling=Resampling(
            method="parametric",
            draws=draws,
            seed=seed,
            groups=int(member_n.max()) + 1,
            noise_sd=sd,
            reason=f"The law with noise of log loss was redrawn: {origin}, {share:.0%} of its variance shared along a trunk; "
            f"{why}.",
        ),
    )


def _residual(
    runs: pd.DataFrame, predicted_n: Array, *, draws: int, seed: int, rng: np.random.Generator, residual_sd: float
) -> Draws:
    """The law plus its own residuals in another order, widened to the sd that the fit's parameters took from them."""
    measured = np.log(runs["loss"].to_numpy(dtype=float))
    # In units of each run's noise: a run of weight w scatters as 1/sqrt(w) of one of weight 1.
    scale = 1 / np.sqrt(runs["weight"].to_numpy(dtype=float))
    residual = (measured - np.log(predicted_n)) / scale
    residual = residual - residual.mean()
    spread = float((measured - np.log(predicted_n)).std())
    widened = residual * (residual_sd / spread if spread > 0 else 1.0)
    drawn = widened[rng.integers(0, len(runs), (draws, len(runs)))]
    return Draws(
        log_loss_Kn=np.log(predicted_n) + drawn * scale,
        weight_Kn=runs["weight"].to_numpy(dtype=float)[None],
        resampling=Resampling(
            method="residual",
            draws=draws,
            seed=seed,
            groups=len(runs),
            noise_sd=None,
            reason="The law was redrawn with its own residuals, as was asked; they are taken as independent.",
        ),
    )


def seed_noise(runs: pd.DataFrame) -> SeedNoise | None:
    """Sd of log loss between seeds of one design cell, pooled; None where no cell has two seeds."""
    known = runs[runs["design"] != ""]
    log_loss = np.log(known["loss"].to_numpy(dtype=float))
    frame = pd.DataFrame({"design": known["design"], "group": known["group"], "log_loss": log_loss}, index=known.index)
    cells = frame.groupby("design")["log_loss"]
    size = cells.transform("size").to_numpy()
    frame = frame.assign(deviation=frame["log_loss"] - cells.transform("mean"))[size > 1]
    freedom = len(frame) - frame["design"].nunique()
    if freedom < 1:
        return None
    variance = float((frame["deviation"] ** 2).sum() / freedom)
    # Deviations of one trunk in two cells: their mean product over the variance is the share they have in common.
    products = 0.0
    pairs = 0
    for _, trunk in frame[frame["group"] != ""].groupby("group"):
        deviation = trunk["deviation"].to_numpy(dtype=float)
        if len(deviation) > 1:
            products += (deviation.sum() ** 2 - (deviation**2).sum()) / 2
            pairs += len(deviation) * (len(deviation) - 1) // 2
    share = None
    if pairs:
        mean_square = float((frame["deviation"] ** 2).mean())
        share = float(np.clip(products / pairs / mean_square, 0.0, 1.0)) if mean_square > 0 else 0.0
    return SeedNoise(sd=float(np.sqrt(variance)), degrees_of_freedom=freedom, trunk_share=share)
