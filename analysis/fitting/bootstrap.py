"""Intervals by refitting: noise drawn again along whole groups of runs, or as the residuals make it likely, or runs redrawn.

Residuals along a trunk are not independent, so single runs are resampled only where nothing groups them.
`benchmarks/recovery.py` counts how often the intervals hold a known truth (docs/studies/recovery.md).

- `group`, from eight trunks or seed groups on: the wild cluster bootstrap (Cameron, Gelbach and Miller 2008). Every group's
  residuals, corrected for what the fit took from them, are multiplied by one number from Webb's six (2014). Drawing the groups
  themselves would leave whole sizes out of the design.
- `parametric`, below that: the law plus noise, whose sd and share along a trunk are drawn from what residuals say of them.
- `run`, where nothing groups them: runs drawn with replacement, the pairs bootstrap (Davison and Hinkley 1997, section 6.2.4).
- `residual`, when asked: the law plus its own residuals in another order (there, section 6.2.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis.fitting.design import identifies
from analysis.fitting.objective import Objective
from analysis.fitting.residual_noise import Member, leverage_corrected, noise_draws, tangent
from analysis.fitting.run_arrays import noise_scale
from analysis.fitting.solver import minimise
from analysis.laws.base import Array, Problem
from analysis.results import Resampling
from llama.errors import UserError

#: How resamples may be asked for: `auto` picks by the table, `residual` redraws the law with the fit's own residuals.
RESAMPLINGS = ("auto", "group", "parametric", "run", "residual")
#: Six multipliers of mean 0 and variance 1 (Webb 2014): signs alone would give eight groups only 256 resamples.
WEBB = np.array([-np.sqrt(1.5), -1.0, -np.sqrt(0.5), np.sqrt(0.5), 1.0, np.sqrt(1.5)])
#: Noise of log loss beyond this is no loss any more: what few residuals' chi-square may draw, capped.
MAX_SD = 0.5
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
    """Of log loss, of a run of typical noise."""
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
    drawn = draw(
        runs,
        predicted_n,
        residual_sd,
        counting=counting,
        draws=draws,
        seed=seed,
        resampling=resampling,
        tangent_nr=tangent(problem, theta_P, noise_scale(runs)),
    )
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
    tangent_nr: Array | None = None,
) -> Draws:
    """K resamples of the fitted `runs` (a RunTable frame), by `resampling` or by what the table allows.

    `residual_sd` is that of a run of typical noise (`analysis.fitting.run_arrays.noise_scale`).

    `tangent_nr` is the fit's (`analysis.fitting.residual_noise`). Readings without one, which are no fit of a surface, have
    their groups drawn with replacement, and noise of `residual_sd`.
    """
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
    redraw = partial(_parametric, runs, predicted_n, residual_sd, tangent_nr, draws=draws, seed=seed, rng=rng)
    if resampling == "parametric":
        alone = np.array([group or f"\n{row}" for row, group in enumerate(groups)])
        return redraw(np.unique(alone, return_inverse=True)[1], "as was asked")
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
    if len(names) >= MIN_GROUPS and tangent_nr is not None:
        return _wild(runs, predicted_n, tangent_nr, member, draws=draws, seed=seed, rng=rng)
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
    return redraw(member, why_not)


def _wild(
    runs: pd.DataFrame,
    predicted_n: Array,
    tangent_nr: Array,
    member_n: Member,
    *,
    draws: int,
    seed: int,
    rng: np.random.Generator,
) -> Draws:
    """The law plus each group's corrected residuals times one number, the whole over a chi of groups - 1 degrees of freedom.

    G groups know their own variance only to G - 1 degrees of freedom, which Student's t allows for and percentiles of a plain
    wild bootstrap don't.
    """
    groups = int(member_n.max()) + 1
    scale = noise_scale(runs)
    log_predicted = np.log(predicted_n)
    residual = (np.log(runs["loss"].to_numpy(dtype=float)) - log_predicted) / scale
    corrected = leverage_corrected(residual, member_n, tangent_nr) * scale
    wide = np.sqrt((groups - 1) / rng.chisquare(groups - 1, size=(draws, 1)))
    noise = (wide * rng.choice(WEBB, size=(draws, groups)))[:, member_n] * corrected
    return Draws(
        log_loss_Kn=log_predicted + np.clip(noise, -3 * MAX_SD, 3 * MAX_SD),
        weight_Kn=runs["weight"].to_numpy(dtype=float)[None],
        resampling=Resampling(
            method="group",
            draws=draws,
            seed=seed,
            groups=groups,
            noise_sd=None,
            reason=f"The residuals of whole groups of runs ({groups} trunks or seed groups) were redrawn by a wild bootstrap, "
            "corrected for what the fit took from them.",
        ),
    )


def _parametric(
    runs: pd.DataFrame,
    predicted_n: Array,
    residual_sd: float,
    tangent_nr: Array | None,
    member_n: Member,
    why: str,
    *,
    draws: int,
    seed: int,
    rng: np.random.Generator,
) -> Draws:
    """The law plus noise, shared along a trunk in part."""
    noise = seed_noise(runs)
    groups = int(member_n.max()) + 1
    scale = noise_scale(runs)
    log_predicted = np.log(predicted_n)
    seeds = (
        "since no seeds repeat"
        if noise is None
        else f"where the seeds' sd is {noise.sd:.2%} with {noise.degrees_of_freedom} degrees of freedom"
    )
    if tangent_nr is not None and len(runs) > tangent_nr.shape[1]:
        residual = (np.log(runs["loss"].to_numpy(dtype=float)) - log_predicted) / scale
        sd_K, share_K = noise_draws(residual, member_n, tangent_nr, draws, rng)
        sd = float(np.median(sd_K))
        freedom = len(runs) - tangent_nr.shape[1]
        origin = f"the residuals' sd {sd:.2%} with {freedom} degrees of freedom, {seeds}"
        told = f"{np.median(share_K):.0%} ({np.quantile(share_K, 0.05):.0%} to {np.quantile(share_K, 0.95):.0%})"
        if groups == len(runs):
            told = "none"
    else:
        share = TRUNK_SHARE if noise is None or noise.trunk_share is None else noise.trunk_share
        sd = max(residual_sd, noise.sd if noise else 0.0)
        sd_K, share_K = np.full(draws, sd), np.full(draws, share)
        origin, told = f"sd {sd:.2%}, {seeds}", f"{share:.0%}"
    sd_K1, share_K1 = np.minimum(sd_K, MAX_SD)[:, None], share_K[:, None]
    shared = rng.standard_normal((draws, groups))[:, member_n]
    own = rng.standard_normal((draws, len(runs)))
    return Draws(
        log_loss_Kn=log_predicted + scale * sd_K1 * (np.sqrt(share_K1) * shared + np.sqrt(1 - share_K1) * own),
        weight_Kn=runs["weight"].to_numpy(dtype=float)[None],
        resampling=Resampling(
            method="parametric",
            draws=draws,
            seed=seed,
            groups=groups,
            noise_sd=sd,
            reason=f"The law with noise of log loss was redrawn: {origin}; {told} of its variance shared along a trunk; {why}.",
        ),
    )


def _residual(
    runs: pd.DataFrame, predicted_n: Array, *, draws: int, seed: int, rng: np.random.Generator, residual_sd: float
) -> Draws:
    """The law plus its own residuals in another order, widened to the sd that the fit's parameters took from them."""
    measured = np.log(runs["loss"].to_numpy(dtype=float))
    scale = noise_scale(runs)
    residual = (measured - np.log(predicted_n)) / scale
    residual = residual - residual.mean()
    spread = float(residual.std())
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
    """Sd of log loss between seeds of one design cell, pooled, for a run of typical noise; None where no cell has two seeds."""
    frame = runs[["design", "group"]].assign(
        log_loss=np.log(runs["loss"].to_numpy(dtype=float)), precision=noise_scale(runs) ** -2
    )
    frame = frame[frame["design"] != ""]
    cells = frame.assign(weighted=frame["precision"] * frame["log_loss"]).groupby("design")
    mean = cells["weighted"].transform("sum") / cells["precision"].transform("sum")
    size = cells["log_loss"].transform("size").to_numpy()
    frame = frame.assign(deviation=np.sqrt(frame["precision"]) * (frame["log_loss"] - mean))[size > 1]
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
