"""What a design can tell before a run of it is made: the Gauss-Newton information of a law, and intervals by the delta method.

With J the derivatives of log L by the parameters at stated values, one row a run, and S the noise's covariance
(`run_noise`), the information is M = J' S^-1 J. An efficient fit of the runs has parameters with the covariance M^-1, and a
quantity q of them the variance q' M^-1 q (Fedorov 1972, chapter 1; Silvey 1980). Taken for granted: the law holds but for the
noise's misfit, the noise is normal and as stated, the fit is least squares on log loss weighted by S, and the law is nearly
linear over the interval. The Huber fit that `fit` does by default comes near where the noise is.

Coordinates are relative changes of the parameters (d ln p; plain ones of a parameter at 0), each column of J at unit length, so
that amplitudes of 1e3 and exponents of 0.3 can share a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.decisions.costs import flops_costs, flops_rule
from analysis.decisions.search import cheapest
from analysis.fitting.run_noise import Cell, DesignRuns, RunNoise, by_cell
from analysis.intervals import Z95
from analysis.laws import get_law
from analysis.laws.base import Array, Law
from analysis.optima.optimum import compute_optimum
from analysis.results import Interval, TokenCost
from llama.errors import UserError

#: Singular values of the whitened Jacobian below this share of the largest say nothing that rounding doesn't.
RANK = 1e-9
#: Share of a gradient's length that may lie in directions that nothing identifies before the quantity isn't either.
UNTOLD = 1e-6
#: Relative step of the targets' derivatives: the searches behind them are exact to about 1e-8.
STEP = 1e-4
#: Parameters that move less than this share of the one that moves most are left out of a direction's words.
MINOR = 0.02
#: Quantities of which the error is relative: their interval is a factor up and down.
RELATIVE = ("n_params", "n_tokens", "cost")

Quantities = Callable[[Array], Mapping[str, Array]]
"""Parameters (..., P) -> by name, the quantities that a decision reads off the law (...)."""


@dataclass(frozen=True, kw_only=True)
class Information:
    """What runs tell of a law's parameters, in relative coordinates."""

    law: Law
    params: Array
    root_PP: Array
    """R with R' R = M."""
    condition_number: float
    """Of M's root with columns at unit length, as `Convergence.condition_number`; infinite where a direction is missing."""
    unidentified: tuple[str, ...]
    """Directions that no run's loss depends on, in words; empty where the design identifies the law."""
    weakest: str
    """The direction that the runs tell least of, in words."""

    def sd(self, gradient_P: Array) -> float:
        """Sd of a quantity with this gradient in relative coordinates; infinite where the runs don't identify it."""
        singular, right = _decompose(self.root_PP)
        along = right @ (gradient_P / _lengths(self.root_PP))
        known = singular > RANK * singular[0]
        if np.linalg.norm(along[~known]) > UNTOLD * np.linalg.norm(along):
            return float("inf")
        return float(np.linalg.norm(along[known] / singular[known]))


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """A quantity as a design's runs would tell it."""

    value: float
    """At the stated parameters."""
    sd: float
    """Of its logarithm where it is a size, tokens or a cost, else of itself; infinite where the runs don't identify it."""
    ci95: Interval
    """Value x exp(+-1.96 sd), or value +- 1.96 sd."""


@dataclass(frozen=True, kw_only=True)
class ForeseenOptimum:
    """The optimum at a target, and how well a design would tell it."""

    n_params: Foreseen
    n_tokens: Foreseen
    loss: Foreseen
    cost: Foreseen
    """Training FLOPs."""
    information: Information


def information(law: Law, params: Array, runs: DesignRuns, noise: RunNoise) -> Information:
    """The information that `runs` hold of a law at `params`, in the law's order."""
    cells, covariance_cc = by_cell(runs, noise)
    whitened_cP = np.linalg.solve(np.linalg.cholesky(covariance_cc), relative_jacobian(law, params, cells))
    if not np.isfinite(whitened_cP).all():
        raise UserError(f"the law {law.name} at these parameters has no derivative at some run: check its parameters")
    root_PP = np.asarray(np.linalg.qr(whitened_cP).R)
    if len(root_PP) < len(params):
        root_PP = np.vstack([root_PP, np.zeros((len(params) - len(root_PP), len(params)))])
    singular, right = _decompose(root_PP)
    lost = singular <= RANK * singular[0]
    directions = right / _lengths(root_PP)
    return Information(
        law=law,
        params=params,
        root_PP=root_PP,
        condition_number=float("inf") if lost.any() else float(singular[0] / singular[-1]),
        unidentified=tuple(_in_words(law, params, row) for row in directions[lost]),
        weakest=_in_words(law, params, directions[-1]),
    )


def relative_jacobian(law: Law, params_KP: Array, runs: DesignRuns) -> Array:
    """d log L by relative changes of the parameters (..., n, P), a row a run."""
    at = params_KP[..., None, :]
    where = runs.n_params_n, runs.n_tokens_n, runs.unique_tokens_n if law.uses_unique_tokens else np.inf
    by_param = law.gradient(at, *where) / law.predict(at, *where)[..., None]
    return np.asarray(by_param * _unit(params_KP)[..., None, :])


def relative_gradient(quantities: Quantities, params_KP: Array) -> dict[str, Array]:
    """By quantity, its derivatives (..., P) by relative changes: of its logarithm where its error is relative.

    Central differences, since targets may lie at the end of a search.
    """
    parameters = params_KP.shape[-1]
    step_PP = STEP * np.eye(parameters)
    moved = np.stack([params_KP[..., None, :] + sign * step_PP * _unit(params_KP)[..., None, :] for sign in (1, -1)])
    with np.errstate(all="ignore"):
        above_below = {
            name: np.log(values) if name in RELATIVE else np.asarray(values)
            for name, values in quantities(moved).items()
        }
        return {name: (values[0] - values[1]) / (2 * STEP) for name, values in above_below.items()}


def foresee(quantities: Quantities, known: Information) -> dict[str, Foreseen]:
    """Each quantity at the information's parameters, with the interval that its runs would give."""
    gradients = relative_gradient(quantities, known.params)
    return {
        name: foreseen(name, float(value), known.sd(gradients[name]))
        for name, value in quantities(known.params).items()
    }


def foreseen(name: str, value: float, sd: float) -> Foreseen:
    if name in RELATIVE:
        # Beyond a double's range a factor is as good as any.
        factor = float(np.exp(min(Z95 * sd, 700.0)))
        ends = value / factor if sd < np.inf else 0.0, value * factor if sd < np.inf else np.inf
    else:
        ends = value - Z95 * sd, value + Z95 * sd
    return Foreseen(value=value, sd=sd, ci95=Interval(lo=ends[0], hi=ends[1]))


def predicted_optimum_interval(
    law_params: Mapping[str, float],
    cells: Iterable[Cell | tuple[float, float, int]] | DesignRuns,
    *,
    noise: RunNoise,
    flops: float | None = None,
    target_loss: float | None = None,
    law: str = "chinchilla",
    train_flops: TokenCost | None = None,
) -> ForeseenOptimum:
    """N*, D*, loss and training FLOPs of the optimum at a target, with the intervals that a design would give them.

    Args:
        law_params: where the law is taken to be, by parameter name (`analysis.laws.published` has fits).
        cells: (n_params, n_tokens, runs), N counted as the law counts it; or runs with their trunks.
        noise: of log loss.
        flops: training compute at which the optimum is asked, or
        target_loss: nats a token that it reaches with the fewest FLOPs. Exactly one of the two.
        law: its name.
        train_flops: of a training token; None: 6 N.

    Raises:
        UserError: no target or two, a target that the law doesn't reach, a parameter that is missing, or impossible cells.
    """
    chosen = get_law(law)
    missing = [name for name in chosen.parameter_names if name not in law_params]
    if missing:
        raise UserError(f"the law {law} needs {', '.join(chosen.parameter_names)}; {', '.join(missing)} was not given")
    params = chosen.as_vector(dict(law_params))
    cost = train_flops or flops_rule(6.0, "6 N FLOPs a token")
    quantities = optimum_quantities(chosen, cost, flops=flops, target_loss=target_loss)
    if not all(np.isfinite(value) and value > 0 for value in quantities(params).values()):
        raise UserError(
            f"the law {law} has no optimum at {'that compute' if flops is not None else f'a loss of {target_loss:g}'}: its "
            f"loss at infinite size and data is {float(chosen.limit(params)):.4g}"
        )
    known = information(chosen, params, cells if isinstance(cells, DesignRuns) else DesignRuns.of_cells(cells), noise)
    return ForeseenOptimum(**foresee(quantities, known), information=known)


def optimum_quantities(
    law: Law, train_flops: TokenCost, *, flops: float | None = None, target_loss: float | None = None
) -> Quantities:
    """The compute-optimal model's n_params, n_tokens, loss and cost in FLOPs, as functions of the law's parameters."""
    if (flops is None) == (target_loss is None):
        raise UserError("the target is either training FLOPs or a loss: name one of the two")
    asked = flops if flops is not None else target_loss
    if asked is None or not (np.isfinite(asked) and asked > 0):
        raise UserError(f"the target is {asked}; it must be above 0 and finite")

    def at(params_KP: Array) -> dict[str, Array]:
        if flops is not None:
            n_params, n_tokens = compute_optimum(law, params_KP, flops, train_flops)
        else:
            n_params, n_tokens = cheapest(law, params_KP, flops_costs(train_flops), asked, 0.0)
        return {
            "n_params": n_params,
            "n_tokens": n_tokens,
            "loss": law.predict(params_KP, n_params, n_tokens),
            "cost": np.asarray(n_tokens * train_flops(n_params)),
        }

    return at


def _unit(params_KP: Array) -> Array:
    """What a relative change of 1 moves each parameter by."""
    return np.where(params_KP == 0, 1.0, np.abs(params_KP))


def _lengths(root_PP: Array) -> Array:
    lengths = np.linalg.norm(root_PP, axis=0)
    return np.asarray(np.where(lengths > 0, lengths, 1.0))


def _decompose(root_PP: Array) -> tuple[Array, Array]:
    """Singular values of the root with columns at unit length, and its right singular vectors as rows."""
    _, singular, right = np.linalg.svd(root_PP / _lengths(root_PP))
    return singular, right


def _in_words(law: Law, params: Array, direction_P: Array) -> str:
    """`A 1 % higher, alpha 0.18 % higher`: the parameters that move together, the one that moves most by 1 %."""
    moved = direction_P / direction_P[int(np.argmax(np.abs(direction_P)))]
    parts = []
    for i in np.argsort(-np.abs(moved), kind="stable"):
        if abs(moved[i]) < MINOR:
            continue
        by = f"{abs(moved[i]):.2g} %" if params[i] else f"{abs(moved[i]) / 100:.2g}"
        parts.append(f"{law.parameter_names[i]} {by} {'higher' if moved[i] > 0 else 'lower'}")
    return ", ".join(parts)
