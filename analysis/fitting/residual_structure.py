"""Structure that a fit left in its residuals: does the miss still go with N, with D, or with D/N?

A law of the right form leaves noise. Along each axis x (log N, log D, log D/N) the test asks whether the residuals still
follow the first two polynomial shapes in x that the law can't take up: x, x^2, x^3 and x^4 are tried in turn, less their part
in the span of the law's derivatives, which the fit absorbs near its optimum so that it can't show. Then it is an F test of
added variables, for residuals that are

- over each run's noise, as weights tell it, and clipped at three robust sds, so that outliers neither make nor hide a pattern;
- whitened where runs share a group: a common part of the variance is estimated by restricted maximum likelihood
  and removed, since branches of one trunk err together and would look like a pattern in N.

The three p-values are corrected for being three (Holm 1979).
"""

from __future__ import annotations

import numpy as np

from analysis.fitting.outliers import robust_sd
from analysis.laws import get_law
from analysis.laws.base import Array
from analysis.results import AxisStructure, Fit, FittedPoint, ResidualStructure
from analysis.results.checks import AXIS_LABELS, Axis
from analysis.words import count

LEVEL = 0.05
#: Powers of the standardised x that are tried, and how many of them the test takes.
POWERS = (1, 2, 3, 4)
SHAPES = 2
#: A shape of which the law takes all but this share can't be tested: what is left is rounding and chance.
LEAST_LEFT = 1e-4
CLIP_SDS = 3.0
#: Bins of an axis that say where the law lies above the runs and where below.
BINS = 5
#: Runs to spare beyond the law's parameters and the shapes.
MIN_SPARE = 2
#: Shares of variance common to a group that the likelihood is evaluated at.
SHARES = np.linspace(0.0, 0.95, 20)


def residual_structure(fit: Fit) -> ResidualStructure:
    """Test the fitted runs' residuals for structure along log N, log D and log D/N."""
    points = [point for point in fit.points if not point.held_out]
    residual = np.array([point.log_residual for point in points])
    columns = _absorbed(fit, points)
    root = 1 / np.array([point.noise_scale for point in points])
    clipped = _clip(residual * root, columns.shape[1])
    columns = columns * root[:, None]
    member = _groups(points)
    share = 0.0
    if member is not None:
        share = _group_share(clipped, columns, member)
        clipped, columns = _whiten(clipped[:, None], member, share)[:, 0], _whiten(columns, member, share)
    taken = _basis(columns)
    log_n, log_d = np.log([point.n_params for point in points]), np.log([point.n_tokens for point in points])
    by_axis: dict[Axis, Array] = {"n_params": log_n, "n_tokens": log_d, "tokens_per_param": log_d - log_n}
    p_values: dict[Axis, float | None] = {}
    for axis, x in by_axis.items():
        shapes = np.stack([_standard(x) ** power for power in POWERS], axis=1) * root[:, None]
        if member is not None:
            shapes = _whiten(shapes, member, share)
        p_values[axis] = _p_value(clipped, taken, _left_over(shapes, taken))
    holm = _holm(p_values)
    return ResidualStructure(
        axes=tuple(
            _axis(axis, label, by_axis[axis], residual, p_values[axis], holm[axis])
            for axis, label in AXIS_LABELS.items()
        ),
        level=LEVEL,
        method=_method(member is not None, share),
    )


def _axis(
    axis: Axis,
    label: str,
    x_n: Array,
    residual_n: Array,
    p_value: float | None,
    p_holm: float | None,
) -> AxisStructure:
    at, miss = _bins(x_n, residual_n)
    structured = p_holm is not None and p_holm < LEVEL
    if p_value is None:
        shape = f"along {label} these runs can't show any: the law takes up all that so few values or runs leave"
    elif not structured:
        shape = f"no structure along {label}"
    else:
        shape = (
            f"the law lies {_off(max(miss))} near {label} {count(at[miss.index(max(miss))])} and {_off(min(miss))} near "
            f"{label} {count(at[miss.index(min(miss))])}"
        )
    return AxisStructure(
        axis=axis,
        p_value=p_value,
        p_holm=p_holm,
        structured=structured,
        at=at,
        miss=miss,
        shape=shape,
    )


def _bins(x_n: Array, residual_n: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Where bins of the axis lie and their median residuals; runs of one value stay together."""
    edges = np.unique(np.quantile(x_n, np.linspace(0, 1, BINS + 1)[1:-1]))
    member = np.searchsorted(edges, x_n, side="left")
    bins = [member == number for number in np.unique(member)]
    return (
        tuple(float(np.exp(x_n[chosen].mean())) for chosen in bins),
        tuple(float(np.median(residual_n[chosen])) for chosen in bins),
    )


def _off(miss: float) -> str:
    return f"{abs(np.expm1(miss)):.2%} {'above' if miss > 0 else 'below'} the runs"


def _absorbed(fit: Fit, points: list[FittedPoint]) -> Array:
    """Derivatives of log L by the law's parameters (n, P), each of unit length: what moves of the parameters would take up."""
    law = get_law(fit.law)
    n, d, unique = (
        np.array([getattr(point, name) for point in points]) for name in ("n_params", "n_tokens", "unique_tokens")
    )
    # Of a parameter that hardly matters the gradient may be past what squares in a double: it is scaled first.
    with np.errstate(all="ignore"):
        gradient = law.gradient(law.as_vector(fit.params), n, d, unique)
        gradient = gradient / np.array([point.predicted for point in points])[:, None]
        gradient = gradient / np.abs(gradient).max(axis=0)
        length = np.linalg.norm(gradient, axis=0)
    # A parameter on a bound where the law doesn't feel it (an amplitude of 0) takes up nothing.
    return np.asarray(gradient[:, np.isfinite(length) & (length > 0)] / length[np.isfinite(length) & (length > 0)])


def _clip(residual_n: Array, n_parameters: int) -> Array:
    limit = CLIP_SDS * robust_sd(residual_n, n_parameters)
    return np.clip(residual_n, -limit, limit)


def _groups(points: list[FittedPoint]) -> np.ndarray | None:
    """The group of each run as an index; None where none has two."""
    names = [point.group or f"\n{i}" for i, point in enumerate(points)]
    found, member = np.unique(names, return_inverse=True)
    return member if len(found) < len(points) else None


def _whiten(values_nC: Array, member_n: np.ndarray, share: float) -> Array:
    """Columns times V^-1/2, where V has 1 on the diagonal and `share` between runs of a group.

    Along a group's mean V is 1 + (m - 1) share, across it 1 - share.
    """
    size = np.bincount(member_n)
    sums = np.zeros((len(size), values_nC.shape[1]))
    np.add.at(sums, member_n, values_nC)
    mean = (sums / size[:, None])[member_n]
    along = np.sqrt(1 + (size - 1) * share)[member_n][:, None]
    return np.asarray((values_nC - mean) / np.sqrt(1 - share) + mean / along)


def _group_share(residual_n: Array, columns_nP: Array, member_n: np.ndarray) -> float:
    """The share of variance common to a group that makes the residuals likeliest (restricted maximum likelihood)."""
    size = np.bincount(member_n)
    best, share = -np.inf, 0.0
    for candidate in SHARES:
        white = _whiten(columns_nP, member_n, candidate)
        basis = _basis(white)
        left = _whiten(residual_n[:, None], member_n, candidate)[:, 0]
        left = left - basis @ (basis.T @ left)
        freedom = len(residual_n) - basis.shape[1]
        log_det = float((np.log1p((size - 1) * candidate) + (size - 1) * np.log1p(-candidate)).sum())
        log_det_columns = 2 * float(np.log(np.maximum(np.linalg.svd(white, compute_uv=False), 1e-300)).sum())
        value = -freedom * np.log(max(float(left @ left), 1e-300)) - log_det - log_det_columns
        if value > best:
            best, share = value, float(candidate)
    return share


def _basis(columns_nC: Array) -> Array:
    left, singular, _ = np.linalg.svd(columns_nC, full_matrices=False)
    return np.asarray(left[:, singular > 1e-10 * singular[0]]) if len(singular) else left


def _left_over(shapes_nS: Array, taken_nQ: Array) -> Array:
    """Orthonormal columns (n, at most `SHAPES`): the first shapes of which the law leaves something."""
    found: list[Array] = []
    for shape in shapes_nS.T:
        left = shape / np.linalg.norm(shape)
        for _ in range(2):  # Twice, so that rounding of the first projection goes too.
            left = left - taken_nQ @ (taken_nQ.T @ left)
            for other in found:
                left = left - other * (other @ left)
        length = float(np.linalg.norm(left))
        if length > LEAST_LEFT:
            found.append(left / length)
        if len(found) == SHAPES:
            break
    return np.stack(found, axis=1) if found else np.empty((len(taken_nQ), 0))


def _p_value(residual_n: Array, taken_nQ: Array, shapes_nS: Array) -> float | None:
    """Of the F test that the shapes explain nothing."""
    tested = shapes_nS.shape[1]
    spare = len(residual_n) - taken_nQ.shape[1] - tested
    if not tested or spare < MIN_SPARE:
        return None
    left = residual_n - taken_nQ @ (taken_nQ.T @ residual_n)
    total = float(left @ left)
    explained = float(((shapes_nS.T @ left) ** 2).sum())
    if total <= len(left) * 1e-24:
        return 1.0
    from scipy.special import betainc

    # P(F > f) of F(tested, spare) in terms of the share that stays unexplained.
    return float(betainc(spare / 2, tested / 2, max(0.0, 1 - explained / total)))


def _holm(p_values: dict[Axis, float | None]) -> dict[Axis, float | None]:
    known = sorted((value, axis) for axis, value in p_values.items() if value is not None)
    corrected: dict[Axis, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for rank, (value, axis) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        corrected[axis] = highest
    return corrected


def _standard(x_n: Array) -> Array:
    return np.asarray((x_n - x_n.mean()) / (x_n.std() or 1.0))


def _method(grouped: bool, share: float) -> str:
    groups = (
        f"runs of a group were taken to share {share:.0%} of their variance (restricted maximum likelihood), which was removed"
        if grouped
        else "runs were taken as independent, since none share a group"
    )
    return (
        "An F test of the first two polynomial shapes along each axis that the law can't take up itself, in weighted residuals "
        f"clipped at {CLIP_SDS:g} robust sds; {groups}; p-values are Holm's for three axes."
    )
