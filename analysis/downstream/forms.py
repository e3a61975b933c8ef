"""From a model's loss to what it does downstream: top-1 error or accuracy as a function of the validation loss.

Two forms behind one interface. The error, an average over tasks, leaves chance exponentially as loss falls (Gadre et al. 2024).
The accuracy of one task against the loss on its own answers is a sigmoid (Bhagia et al. 2024; Llama 3 has the same two
steps). Both are fitted by least squares in the target, as their authors do, by the solver of the laws.

A forecast chains the two: `fit.predict(law.predict(params, n_params, n_tokens))`.

Axes: K parameter vectors (starts, or bootstrap draws), P parameters, n runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.fitting.design import condition_number
from analysis.fitting.objective import Objective
from analysis.fitting.solver import minimise
from analysis.intervals import ends
from analysis.laws.base import Array, Parameter, Problem
from analysis.laws.power_sum import nonnegative_amplitudes
from analysis.results import Interval
from llama.errors import UserError

#: Runs beyond the number of parameters, and different losses among them.
MIN_SPARE_RUNS = 2
#: Rank correlation of loss and target, over that of chance, below which there is no trend to fit: sqrt(n - 1) times it is
#: about normal where there is none, and passes this once in 200 flat tables.
MIN_TREND = 2.6
#: Condition number of the Jacobian at the optimum, columns at unit length. On Gadre's runs the exponential has about 20, the
#: sigmoid about 100, and 170 on the runs under 1B alone.
MAX_CONDITION = 1_000.0
N_STARTS = 4
#: Draws of a resample of runs that still identifies the form.
MAX_REDRAWS = 100


class Downstream(ABC):
    """A downstream measure as a function of loss in nats a token."""

    name: str
    source: str
    target: str
    """What it predicts, a share between 0 and 1: "error" or "accuracy"."""
    parameters: tuple[Parameter, ...]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def as_vector(self, params: dict[str, float]) -> Array:
        """The named parameters as a vector (P,) in the form's order."""
        return np.array([params[name] for name in self.parameter_names], dtype=np.float64)

    @abstractmethod
    def predict(self, params_KP: Array, loss: Array | float) -> Array:
        """The measure at a loss, which broadcasts against the parameters' leading axes."""

    @abstractmethod
    def gradient(self, params_KP: Array, loss: Array | float) -> Array:
        """The measure's derivatives by the parameters, stacked on a last axis of P."""

    @abstractmethod
    def problem(self, loss_n: Array) -> Problem:
        """The form on these losses, for the solver."""


class Exponential(Downstream):
    """Err(L) = epsilon - k exp(-gamma L)."""

    name = "exponential"
    source = "Gadre et al. 2024 (arXiv 2403.08540), equation 5"
    target = "error"
    parameters = (
        Parameter(name="epsilon", unit="share of answers", meaning="error at a loss so high that all is chance"),
        Parameter(name="k", unit="share of answers", meaning="how far the error lies below that at a loss of 0"),
        Parameter(name="gamma", unit="1/nats", meaning="how fast a lower loss lowers the error"),
    )

    def predict(self, params_KP: Array, loss: Array | float) -> Array:
        epsilon, k, gamma = np.moveaxis(params_KP, -1, 0)
        return np.asarray(epsilon - k * np.exp(-gamma * loss))

    def gradient(self, params_KP: Array, loss: Array | float) -> Array:
        _, k, gamma = np.moveaxis(params_KP, -1, 0)
        decay = np.exp(-gamma * loss)
        return np.stack(np.broadcast_arrays(1.0, -decay, k * decay * loss), axis=-1)

    def problem(self, loss_n: Array) -> Problem:
        return ExponentialProblem(loss_n)


class Sigmoid(Downstream):
    """Acc(L) = a / (1 + exp(-k (L - L0))) + b, written with k > 0, so that a < 0 where accuracy falls with loss."""

    name = "sigmoid"
    source = (
        "Bhagia et al. 2024 (arXiv 2412.04403), the ladder's second step; Llama 3 (arXiv 2407.21783), section 3.2.1"
    )
    target = "accuracy"
    parameters = (
        Parameter(name="a", unit="share of answers", meaning="from the best accuracy down to chance, so negative"),
        Parameter(name="k", unit="1/nats", meaning="steepness"),
        Parameter(name="L0", unit="nats a token", meaning="loss at which half of the way is gone"),
        Parameter(name="b", unit="share of answers", meaning="the best accuracy, at a loss far below L0"),
    )

    def predict(self, params_KP: Array, loss: Array | float) -> Array:
        a, k, middle, b = np.moveaxis(params_KP, -1, 0)
        return np.asarray(a * _sigmoid(k * (loss - middle)) + b)

    def gradient(self, params_KP: Array, loss: Array | float) -> Array:
        a, k, middle, _ = np.moveaxis(params_KP, -1, 0)
        share = _sigmoid(k * (loss - middle))
        slope = a * share * (1 - share)
        return np.stack(np.broadcast_arrays(share, slope * (loss - middle), -slope * k, 1.0), axis=-1)

    def problem(self, loss_n: Array) -> Problem:
        return SigmoidProblem(loss_n)


class ExponentialProblem(Problem):
    """theta = (epsilon, c, gamma): epsilon - exp(c - gamma l), l the centred loss, where c hardly correlates with gamma."""

    coordinates = ("epsilon", "k", "gamma")
    scale = 1.0

    def __init__(self, loss_n: Array) -> None:
        self.center = float(loss_n.mean())
        self.loss_n = loss_n - self.center
        # By span: a curve that bends less than a hundredth over the runs is a line, and one that falls e^50 times a step.
        span = float(np.ptp(loss_n))
        self.gammas = np.geomspace(0.05, 30.0, 24) / span
        self.lower_P = np.array([0.0, -40.0, 0.02 / span])
        self.upper_P = np.array([1.0, 40.0, 50.0 / span])

    def evaluate(self, theta_KP: Array) -> tuple[Array, Array]:
        epsilon, c, gamma = theta_KP.T[:, :, None]
        drop = np.exp(c - gamma * self.loss_n)
        return epsilon - drop, np.stack([np.ones_like(drop), -drop, drop * self.loss_n], axis=1)

    def curvature(self, theta_KP: Array, jacobian_KPn: Array, q_Kn: Array) -> Array:
        hessian = np.zeros((len(theta_KP), 3, 3))
        hessian[:, 1, 1] = np.einsum("kn,kn->k", q_Kn, jacobian_KPn[:, 1])
        hessian[:, 1, 2] = hessian[:, 2, 1] = np.einsum("kn,kn->k", q_Kn, jacobian_KPn[:, 2])
        hessian[:, 2, 2] = -np.einsum("kn,kn,n->k", q_Kn, jacobian_KPn[:, 2], self.loss_n)
        return hessian

    def to_params(self, theta_KP: Array) -> Array:
        epsilon, c, gamma = theta_KP.T
        return np.stack([epsilon, np.exp(c + gamma * self.center), gamma], axis=1)

    def starts(self, loss_n: Array, weight_n: Array) -> Array:
        """At each gamma of a grid the best epsilon and k by non-negative least squares."""
        drop = np.exp(-self.gammas[:, None] * self.loss_n)
        columns = np.stack([np.ones_like(drop), -drop], axis=1) * np.sqrt(weight_n)
        amplitudes, cost = nonnegative_amplitudes(columns, loss_n * np.sqrt(weight_n))
        theta = np.stack([amplitudes[:, 0], np.log(np.maximum(amplitudes[:, 1], 1e-9)), self.gammas], axis=1)
        return np.asarray(theta[np.argsort(cost)[:N_STARTS]])


class SigmoidProblem(Problem):
    """theta = (b, f, ln k, L0): b + (f - b) sigmoid(k (L - L0)), from b at no loss to the floor f = a + b."""

    coordinates = ("b", "a", "k", "L0")
    scale = 1.0

    def __init__(self, loss_n: Array) -> None:
        self.loss_n = loss_n
        low, high, span = float(loss_n.min()), float(loss_n.max()), float(np.ptp(loss_n))
        self.grid_k = np.geomspace(1.0, 40.0, 10) / span
        self.grid_middle = np.linspace(low, high, 11)
        self.lower_P = np.array([0.0, 0.0, np.log(0.2 / span), low - span])
        self.upper_P = np.array([1.0, 1.0, np.log(200.0 / span), high + span])

    def evaluate(self, theta_KP: Array) -> tuple[Array, Array]:
        b, floor, log_k, middle = theta_KP.T[:, :, None]
        k = np.exp(log_k)
        z = k * (self.loss_n - middle)
        share = _sigmoid(z)
        slope = (floor - b) * share * (1 - share)
        return b + (floor - b) * share, np.stack([1 - share, share, slope * z, -slope * k], axis=1)

    def curvature(self, theta_KP: Array, jacobian_KPn: Array, q_Kn: Array) -> Array:
        b, floor, log_k, middle = theta_KP.T[:, :, None]
        k = np.exp(log_k)
        z = k * (self.loss_n - middle)
        share = jacobian_KPn[:, 1]
        first = share * (1 - share)
        second = first * (1 - 2 * share)
        by_log_k = np.stack(
            [-first * z, first * z, (floor - b) * (second * z + first) * z, -(floor - b) * (second * z + first) * k],
            axis=1,
        )
        by_middle = np.stack([first * k, -first * k, by_log_k[:, 3], (floor - b) * second * k**2], axis=1)
        hessian = np.zeros((len(theta_KP), 4, 4))
        hessian[:, 2] = (by_log_k @ q_Kn[:, :, None])[:, :, 0]
        hessian[:, 3] = (by_middle @ q_Kn[:, :, None])[:, :, 0]
        hessian[:, :2, 2:] = hessian[:, 2:, :2].transpose(0, 2, 1)
        return hessian

    def to_params(self, theta_KP: Array) -> Array:
        b, floor, log_k, middle = theta_KP.T
        return np.stack([floor - b, np.exp(log_k), middle, b], axis=1)

    def starts(self, loss_n: Array, weight_n: Array) -> Array:
        """At each k and L0 of a grid the best ceiling and floor by non-negative least squares."""
        k, middle = (axis.ravel() for axis in np.meshgrid(self.grid_k, self.grid_middle, indexing="ij"))
        share = _sigmoid(k[:, None] * (self.loss_n - middle[:, None]))
        columns = np.stack([1 - share, share], axis=1) * np.sqrt(weight_n)
        amplitudes, cost = nonnegative_amplitudes(columns, loss_n * np.sqrt(weight_n))
        theta = np.stack([*np.minimum(amplitudes, 1.0).T, np.log(k), middle], axis=1)
        return np.asarray(theta[np.argsort(cost)[:N_STARTS]])


FORMS: dict[str, Callable[[], Downstream]] = {"exponential": Exponential, "sigmoid": Sigmoid}


def get_form(name: str) -> Downstream:
    """The form of that name.

    Raises:
        UserError: there is none.
    """
    if name not in FORMS:
        raise UserError(f"no downstream form is called {name!r}; there are {', '.join(FORMS)}")
    return FORMS[name]()


@dataclass(frozen=True, kw_only=True)
class DownstreamFit:
    """A form fitted to runs, with its evidence and its intervals."""

    form: str
    params: dict[str, float]
    ci95: dict[str, Interval] | None
    """Central 95 % of the bootstrap over runs. None: no bootstrap."""
    n_runs: int
    residual_sd: float
    """Share of answers."""
    loss_range: Interval
    """Of the fitted losses, in nats a token. A forecast outside is an extrapolation."""
    gradient_norm: float
    """Of the sum of squares at the optimum, in the solver's coordinates, free directions only."""
    condition_number: float
    draws_KP: Array | None
    warnings: tuple[str, ...]

    def predict(self, loss: Array | float) -> Array:
        """The error or accuracy at a loss."""
        form = get_form(self.form)
        return form.predict(form.as_vector(self.params), loss)

    def redraw(self, loss_K: Array) -> Array:
        """Each resampled curve at a loss of its own.

        Raises:
            UserError: the fit has no bootstrap.
        """
        if self.draws_KP is None:
            raise UserError("the fit was made with bootstrap 0, and has no interval: ask for 1,000 resamples")
        return get_form(self.form).predict(self.draws_KP, loss_K)

    def interval(self, loss: Array | float) -> tuple[Array, Array]:
        """The central 95 % of the fitted curve at a loss, (low, high): the curve's, without a task's own noise.

        Raises:
            UserError: the fit has no bootstrap.
        """
        if self.draws_KP is None:
            raise UserError("the fit was made with bootstrap 0, and has no interval: ask for 1,000 resamples")
        curves = get_form(self.form).predict(self.draws_KP, np.asarray(loss)[..., None])
        return ends(np.moveaxis(curves, -1, 0))


def fit_downstream(
    loss_n: Array, target_n: Array, *, form: str = "exponential", bootstrap: int = 1000, seed: int = 0
) -> DownstreamFit:
    """Fit `form` to runs' losses (nats a token) and targets (shares between 0 and 1), by least squares in the target.

    Args:
        form: exponential (the target is an error, which rises with loss) or sigmoid (an accuracy, which falls).
        bootstrap: resamples of runs for the intervals; 0 for none.
        seed: of the resampling.

    Raises:
        UserError: values out of range, too few runs, a target without a trend or with the wrong one, or runs along which
            the form's parameters can't be told apart.
    """
    chosen = get_form(form)
    if bootstrap < 0:
        raise UserError(f"bootstrap is {bootstrap}; the number of resamples must be 0 or more")
    loss_n, target_n = np.asarray(loss_n, dtype=np.float64), np.asarray(target_n, dtype=np.float64)
    _check(chosen, loss_n, target_n)
    problem, goal = chosen.problem(loss_n), Objective(name="lsq")
    even = np.ones(len(loss_n))
    solution = minimise(problem, goal, target_n[None], even[None], problem.starts(target_n, even), goal.stages)
    best = int(np.argmin(solution.value_K))
    theta = solution.theta_KP[best]
    condition = _check_optimum(chosen, problem, theta, loss_n)
    params = problem.to_params(theta[None])[0]
    warnings = []
    if not solution.converged_K[best]:
        warnings.append(f"the optimum is not exact: the gradient's norm is {solution.gradient_norm_K[best]:.2g}")
    bounds = [name for name, hit in zip(problem.coordinates, _at_bound(problem, theta), strict=True) if hit]
    if bounds:
        warnings.append(f"the fit ended on a bound of {', '.join(bounds)}: these runs don't determine it")
    draws = None
    if bootstrap:
        weight_Kn = _resample(loss_n, len(chosen.parameters), bootstrap, seed)
        start = np.repeat(theta[None], bootstrap, axis=0)
        refit = minimise(problem, goal, target_n[None], weight_Kn, start, goal.stages)
        draws = problem.to_params(_widened(problem, theta, refit.theta_KP, len(loss_n), seed))
        if (unconverged := int((~refit.converged_K).sum())) > 0.01 * bootstrap:
            warnings.append(f"{unconverged} of {bootstrap} resamples stopped short; intervals may be too narrow")
    spare = len(loss_n) - len(params)
    return DownstreamFit(
        form=chosen.name,
        params=dict(zip(chosen.parameter_names, params.tolist(), strict=True)),
        ci95=None
        if draws is None
        else {
            name: Interval(lo=float(low), hi=float(high))
            for name, low, high in zip(chosen.parameter_names, *ends(draws), strict=True)
        },
        n_runs=len(loss_n),
        residual_sd=float(np.sqrt(((chosen.predict(params, loss_n) - target_n) ** 2).sum() / spare)),
        loss_range=Interval(lo=float(loss_n.min()), hi=float(loss_n.max())),
        gradient_norm=float(solution.gradient_norm_K[best]),
        condition_number=condition,
        draws_KP=draws,
        warnings=tuple(warnings),
    )


def _check(form: Downstream, loss_n: Array, target_n: Array) -> None:
    if loss_n.ndim != 1 or loss_n.shape != target_n.shape:
        raise UserError(f"{loss_n.size} losses and {target_n.size} values of {form.target}: each run needs one of each")
    if not (np.isfinite(loss_n) & (loss_n > 0)).all():
        raise UserError("a run's loss is missing, infinite or not above 0; leave it out")
    if not ((target_n >= 0) & (target_n <= 1)).all():
        wrong = target_n[~((target_n >= 0) & (target_n <= 1))][0]
        raise UserError(f"a run's {form.target} is {wrong:g}; it must be a share from 0 to 1 (divide per cent by 100)")
    needed = len(form.parameters) + MIN_SPARE_RUNS
    if len(np.unique(loss_n)) < needed:
        raise UserError(
            f"{len(loss_n)} runs have {len(np.unique(loss_n))} different losses; the form {form.name} needs at least {needed}"
        )
    correlation = _rank_correlation(loss_n, target_n)
    expected = correlation if form.target == "error" else -correlation
    if expected * np.sqrt(len(loss_n) - 1) < MIN_TREND * _reachable(len(loss_n)):
        trend = "rises" if form.target == "error" else "falls"
        raise UserError(
            f"the form {form.name} is for an {form.target} that {trend} with loss, and the rank correlation of these "
            f"{len(loss_n)} runs is {correlation:.2f}: too little of a trend, or of the wrong sign. Add runs that do better "
            f"than chance, or check that the column holds an {form.target}."
        )


def _reachable(runs: int) -> float:
    """Few runs can't pass the threshold however straight they lie: all but straight has to do."""
    return min(1.0, 0.9 * float(np.sqrt(runs - 1)) / MIN_TREND)


def _rank_correlation(x_n: Array, y_n: Array) -> float:
    """Spearman's; 0 where either is constant."""
    from scipy.stats import rankdata

    x, y = rankdata(x_n), rankdata(y_n)
    if not (np.ptp(x) and np.ptp(y)):
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _check_optimum(form: Downstream, problem: Problem, theta_P: Array, loss_n: Array) -> float:
    """The condition number at the optimum, refused past its bound or where the curve's own shape is on a bound."""
    condition = condition_number(problem, theta_P)
    stuck = [
        name
        for name, hit in zip(problem.coordinates, _at_bound(problem, theta_P), strict=True)
        if hit and name in ("gamma", "k", "L0")
    ]
    if stuck or not condition <= MAX_CONDITION:
        why = (
            f"{stuck[0]} ends on its bound"
            if stuck
            else f"the condition number is {condition:.3g}, over {MAX_CONDITION:g}"
        )
        raise UserError(
            f"{len(loss_n)} runs with losses from {loss_n.min():.3g} to {loss_n.max():.3g} don't determine the form "
            f"{form.name}: {why}. Add runs at lower and higher losses, so that the curve bends between them."
        )
    return condition


def _at_bound(problem: Problem, theta_P: Array) -> Array:
    return np.asarray((theta_P <= problem.lower_P) | (theta_P >= problem.upper_P))


def _resample(loss_n: Array, parameters: int, draws: int, seed: int) -> Array:
    """How often each run is in each resample (K, n); resamples with too few different losses are drawn again."""
    rng = np.random.default_rng(seed)
    runs = len(loss_n)
    same_loss = (loss_n[:, None] == np.unique(loss_n)).astype(np.float64)
    weight_Kn = np.empty((draws, runs))
    missing = np.arange(draws)
    for _ in range(MAX_REDRAWS):
        weight_Kn[missing] = rng.multinomial(runs, np.full(runs, 1 / runs), size=len(missing))
        distinct = ((weight_Kn[missing] @ same_loss) > 0).sum(axis=1)
        missing = missing[distinct <= parameters]
        if not len(missing):
            break
    return weight_Kn


def _widened(problem: Problem, theta_P: Array, theta_KP: Array, runs: int, seed: int) -> Array:
    """The resamples' optima about the fit's, as far as n runs with P parameters taken from them are short of telling.

    Resampled residuals are smaller than the noise by sqrt(1 - P/n), and n - P degrees of freedom know its variance no better
    than a chi-square of as many: Student's t, which percentiles of a plain bootstrap don't allow for.
    """
    freedom = runs - len(theta_P)
    rng = np.random.default_rng((seed, 1))
    wide_K = np.sqrt(runs / freedom) * np.sqrt(freedom / rng.chisquare(freedom, size=len(theta_KP)))
    return np.asarray(np.clip(theta_P + (theta_KP - theta_P) * wide_K[:, None], problem.lower_P, problem.upper_P))


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))
