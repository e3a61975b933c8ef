"""Several sizes under one budget, as LLaMA was trained: 7B, 13B, 33B and 65B.

    minimise  sum_k w_k L(N_k, D_k)   subject to   sum_k [D_k u(N_k) + w_k D_inf s(N_k)] = X

The sizes are fixed, w_k is the share of the demand that size k serves, so the goal is the mean loss of a served token. Serving
is then a fixed cost, and what is left buys training tokens where the last unit of cost lowers that mean most: at the optimum
w_k dL/dD_k over u(N_k) is the same for all sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.decisions.choose import Setting
from analysis.decisions.search import surface
from analysis.intervals import interval
from analysis.laws import get_law
from analysis.laws.base import Law
from analysis.optima.optimum import outside
from analysis.results import Array, Family, FamilyMember, Fit, Optimum
from analysis.words import count, number
from llama.errors import UserError

#: Ratio of neighbouring sizes where only their number was named: about LLaMA's (6.7B, 13.0B, 32.5B, 65.2B).
SPACING = 2.0
MOST_MEMBERS = 20
#: Draws that the intervals come from, and steps of either bisection: prices first, then tokens at a price.
DRAWS = 200
STEPS = 60
#: Tokens between which a member's are looked for, and the step of the derivative in ln D.
TOKENS = (1.0, 1e22)
STEP = 1e-4

#: Sizes and the share of the demand that each serves, or how many sizes there shall be.
Members = int | Sequence[tuple[float, float]]


def family(fit: Fit, setting: Setting, members: Members, *, alone: Optimum, single: Optimum) -> Family:
    """The budget of `setting` spent on several sizes.

    Args:
        fit: the law.
        setting: a question about a budget, of compute or of cost.
        members: (size, share of demand), or the number of sizes: then they lie a factor 2 apart around `alone`, with equal
            shares.
        alone: what would be recommended alone.
        single: the best that the same budget buys as one model.

    Raises:
        UserError: impossible sizes or shares, a question without a budget, or a budget that serving uses up.
    """
    question = setting.question
    if question.kind == "target_loss":
        raise UserError("--family spends a budget: ask with --budget or --compute, not with --target-loss")
    sizes_k, share_k, named = _members(members, setting, alone.n_params)
    # A compute budget is training FLOPs alone: serving is not paid from it.
    pays_serving = question.kind == "budget"
    train = setting.costs.train if pays_serving else setting.train_flops
    serve_k = share_k * setting.demand_tokens * setting.costs.serve(sizes_k)
    left = question.value - (float(serve_k.sum()) if pays_serving else 0.0)
    if left <= 0:
        raise UserError(
            f"serving {count(setting.demand_tokens)} tokens with this family costs {number(float(serve_k.sum()))} "
            f"{setting.costs.unit}, which leaves nothing of --budget {number(question.value)} to train with"
        )
    law = surface(get_law(fit.law), setting.unique_tokens)
    price_k = train(sizes_k)

    def tokens(params: Array) -> Array:
        return _split(law, params, sizes_k, share_k, price_k, left, setting.unique_tokens)

    params = law.as_vector(fit.params)
    d_k = tokens(params)
    loss_k = law.predict(params, sizes_k, d_k, setting.unique_tokens)
    drawn = None
    if fit.draws_KP is not None:
        draws = fit.draws_KP[:DRAWS, None, :]
        d_Kk = tokens(draws)
        drawn = d_Kk, law.predict(draws, sizes_k, d_Kk, setting.unique_tokens)
    what = "training and serving" if pays_serving else "training"
    return Family(
        members=tuple(
            FamilyMember(
                n_params=float(sizes_k[k]),
                demand_share=float(share_k[k]),
                n_tokens=float(d_k[k]),
                loss=float(loss_k[k]),
                train_cost=float(d_k[k] * setting.costs.train(sizes_k[k])),
                serve_cost=float(serve_k[k]),
                ci95=None
                if drawn is None
                else {"n_tokens": interval(drawn[0][:, k]), "loss": interval(drawn[1][:, k])},
                outside_fitted_range=outside(fit, float(sizes_k[k]), float(d_k[k]), float(loss_k[k])),
            )
            for k in range(len(sizes_k))
        ),
        budget=question.value,
        unit=question.unit,
        cost_unit=setting.costs.unit,
        weighted_loss=float(share_k @ loss_k),
        alone_loss=single.loss,
        rule=(
            f"{named}; tokens are split so that the loss, weighted by each size's share of the demand, is least while {what} "
            "together cost the budget: the last unit of cost lowers that loss alike at every size"
        ),
    )


def _members(members: Members, setting: Setting, alone: float) -> tuple[Array, Array, str]:
    """Sizes ascending, shares that sum to 1, and where they came from in words."""
    limits = setting.sizes
    if isinstance(members, int):
        if not 2 <= members <= MOST_MEMBERS:
            raise UserError(f"--family is {members}; a family has 2 to {MOST_MEMBERS} sizes")
        sizes: Array = alone * np.power(SPACING, np.arange(members, dtype=np.float64) - (members - 1) / 2)
        if limits is not None and sizes[-1] > limits.hi:
            sizes = sizes * (limits.hi / sizes[-1])
        shares = np.full(members, 1 / members)
        named = (
            f"{members} sizes a factor {SPACING:g} apart around the best single one, with equal shares of the demand"
        )
    else:
        if not members:
            raise UserError("--family names no size")
        sizes, shares = (np.array(values, dtype=np.float64) for values in zip(*sorted(members), strict=True))
        if not (np.isfinite(sizes) & (sizes > 0)).all() or len(np.unique(sizes)) < len(sizes):
            raise UserError("--family: sizes must be different from each other, above 0 and finite")
        if not (np.isfinite(shares) & (shares > 0)).all() or abs(float(shares.sum()) - 1) > 1e-6:
            raise UserError(
                f"--family: shares of the demand must be above 0 and sum to 1; these sum to {number(float(shares.sum()))}"
            )
        named = f"{len(sizes)} sizes and their shares of the demand as named"
    if limits is not None and not (limits.lo * (1 - 1e-9) <= sizes[0] and sizes[-1] <= limits.hi * (1 + 1e-9)):
        raise UserError(
            f"--family: {count(float(sizes[0]))} to {count(float(sizes[-1]))} parameters leave the limits, which allow "
            f"{count(limits.lo)} to {count(limits.hi)}"
        )
    return sizes, np.asarray(shares / shares.sum()), named


def _split(
    law: Law, params: Array, sizes_k: Array, share_k: Array, price_k: Array, left: float, unique_tokens: float
) -> Array:
    """Tokens of each size: where what a unit of cost gains has come down to one value, found by bisection on its logarithm."""

    def gain(log_d: Array) -> Array:
        """ln of w_k (-dL/dD) / u_k, falling in D."""
        below, above = (law.predict(params, sizes_k, np.exp(log_d + step), unique_tokens) for step in (-STEP, STEP))
        with np.errstate(divide="ignore"):
            fall = np.log(np.maximum(below - above, 0.0) / (2 * STEP))
        return np.asarray(fall - log_d + np.log(share_k / price_k))

    def at_price(log_price: Array) -> Array:
        low, high = (np.full(np.broadcast_shapes(log_price.shape, sizes_k.shape), np.log(edge)) for edge in TOKENS)
        for _ in range(STEPS):
            middle = (low + high) / 2
            worth = gain(middle) >= log_price
            low, high = np.where(worth, middle, low), np.where(worth, high, middle)
        return np.asarray(np.exp(low))

    shape = (*params.shape[:-2], 1) if params.ndim > 1 else (1,)
    low, high = np.full(shape, -400.0), np.full(shape, 100.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        dear = (at_price(middle) * price_k).sum(axis=-1, keepdims=True) > left
        low, high = np.where(dear, middle, low), np.where(dear, high, middle)
    d_k = at_price(high)
    # What bisection leaves over is spent evenly, so that the budget is met to the last digit.
    return np.asarray(d_k * left / (d_k * price_k).sum(axis=-1, keepdims=True))
