"""Compute-optimal models: the least loss at a training budget, by the law's closed form, with intervals from its draws."""

from __future__ import annotations

import numpy as np

from analysis.intervals import band, interval
from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.results import Array, Band, BudgetOptimum, Fit, Optimum, TokenCost
from analysis.words import count, number
from llama.errors import UserError

GRID = 80
#: The best of many noisy runs is no limit to within what two seeds of a run differ by. The law's own misfit is no measure of
#: that: the worse a law, the less it would call extrapolated.
LOSS_TOLERANCE = 0.003
#: A model has a parameter and a token at least; beyond the most that `fitting.design` takes, a law says nothing of use.
LEAST, MOST = 1.0, 1e30
#: Powers of N tried towards the one that touches FLOPs at the optimum: each is ten times nearer than the one before.
TANGENTS = 12


def compute_optimum(
    law: Law, params_KP: Array, flops: Array | float, train_flops: TokenCost, unique_tokens: float = np.inf
) -> tuple[Array, Array]:
    """(N_opt, D_opt) at a training budget, by a law's closed form for FLOPs that go as a power of N.

    Where FLOPs bend with N the power of N that touches them at the optimum has the same one.
    """
    n, d = law.compute_optimum(params_KP, flops, train_flops.slope, train_flops.exponent, unique_tokens)
    if train_flops.bend is None:
        return n, d
    for _ in range(TANGENTS):
        slope, exponent = train_flops.tangent(n)
        n, _ = law.compute_optimum(params_KP, flops, slope, exponent, unique_tokens)
    return n, np.asarray(flops / train_flops(n))


def budget_optimum(fit: Fit, flops: float, train_flops: TokenCost) -> BudgetOptimum:
    """The law's compute-optimal N and D at a training budget.

    Raises:
        UserError: the law's optimum there is no model, as where loss hardly depends on N or on D.
    """
    law = get_law(fit.law)
    params = law.as_vector(fit.params)

    def work_out(params_KP: Array) -> dict[str, Array]:
        # Some draws may have no optimum that a double holds: these count as infinite, or not at all.
        with np.errstate(all="ignore"):
            n_params, n_tokens = compute_optimum(law, params_KP, flops, train_flops)
            return {"n_params": n_params, "n_tokens": n_tokens, "loss": law.predict(params_KP, n_params, n_tokens)}

    best = {name: float(value) for name, value in work_out(params).items()}
    if not is_model(best["n_params"], best["n_tokens"]):
        raise UserError(
            f"at {number(flops)} FLOPs the law {fit.law} has no compute-optimal model: it comes out at "
            f"{number(best['n_params'])} parameters and {number(best['n_tokens'])} tokens. Check whether the runs vary enough "
            "in N and in D"
        )
    ci95 = None
    if fit.draws_KP is not None:
        ci95 = {name: interval(values) for name, values in work_out(fit.draws_KP).items()}
    return BudgetOptimum(
        flops=flops,
        optimum=Optimum(
            n_params=best["n_params"],
            n_tokens=best["n_tokens"],
            loss=best["loss"],
            cost=flops,
            unit="FLOPs",
            ci95=ci95,
            outside_fitted_range=outside(fit, best["n_params"], best["n_tokens"]),
        ),
    )


def compute_ridge(fit: Fit, train_flops: TokenCost, lowest_flops: float, highest_flops: float) -> Band:
    """N_opt over a grid of budgets, with its band."""
    law = get_law(fit.law)
    grid = np.geomspace(lowest_flops, highest_flops, GRID)

    def sizes(params_KP: Array) -> Array:
        with np.errstate(all="ignore"):
            return compute_optimum(law, params_KP, grid, train_flops)[0]

    drawn_KG = None if fit.draws_KP is None else sizes(fit.draws_KP[:, None, :])
    return band(grid, sizes(law.as_vector(fit.params)), drawn_KG)


def is_model(n_params: float, n_tokens: float) -> bool:
    """Whether N and D are numbers that a model can have."""
    return LEAST <= n_params <= MOST and LEAST <= n_tokens <= MOST


def outside(fit: Fit, n_params: float, n_tokens: float, loss: float | None = None) -> tuple[str, ...]:
    """What of a model lies outside the fitted runs, in words: N, D, D/N, compute as N D, or a loss that no run reached.

    `loss` is the law's where None is given, nothing repeating.
    """
    fitted = fit.fitted_range
    said = []
    for name, value, known, unit in (
        ("N", n_params, fitted.n_params, " parameters"),
        ("D", n_tokens, fitted.n_tokens, " tokens"),
        ("D/N", n_tokens / n_params, fitted.tokens_per_param, ""),
        ("compute as N D", n_params * n_tokens, fitted.n_times_d, ""),
    ):
        # A hair's breadth is no extrapolation.
        if not known.lo * 0.999 <= value <= known.hi * 1.001:
            show = count if unit else number
            said.append(f"{name} {show(value)}{unit} is outside the fitted {show(known.lo)} to {show(known.hi)}")
    if loss is None:
        law = get_law(fit.law)
        loss = float(law.predict(law.as_vector(fit.params), n_params, n_tokens))
    if loss < fitted.loss.lo * (1 - LOSS_TOLERANCE):
        said.append(f"the predicted loss {loss:.3f} is below the best fitted run's {fitted.loss.lo:.3f}")
    return tuple(said)
