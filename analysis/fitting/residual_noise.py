"""What residuals say about noise, once it is counted what the fit took from them.

A fit of P parameters leaves residuals that are smaller than the noise, and along a trunk much smaller: five trunks whose
parameters of size take three directions from them leave two that show how much a whole trunk is off. Both ways here go by the
fit's tangent space, the directions that its parameters can move the log losses in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.laws.base import Array, Problem

Member = NDArray[np.intp]

#: Shares of the variance that a trunk's runs may have in common. Past the last they would be one run.
SHARES = np.linspace(0.0, 0.95, 20)
#: What a group keeps of a direction that the fit takes from it nearly whole. Dividing by less would make up what isn't known.
LEAST_KEPT = 0.05
#: Singular values of the tangent below this share of the largest are no directions.
RANK = 1e-10
#: Residuals whose mean square is below this are rounding: the law is exact.
EXACT = 1e-24


def tangent(problem: Problem, theta_P: Array, scale_n: Array) -> Array:
    """An orthonormal basis (n, r) of what free parameters can do to the log losses, in units of each run's noise."""
    predicted, jacobian = problem.evaluate(theta_P[None])
    free = (theta_P > problem.lower_P) & (theta_P < problem.upper_P)
    columns = (jacobian[0] / predicted / scale_n)[free].T
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), np.finfo(float).tiny)
    basis, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(basis[:, singular > RANK * singular.max(initial=0.0)])


def noise_draws(
    residual_n: Array, member_n: Member, tangent_nr: Array, draws: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draws of the noise's sd and of the share that a group's runs have in common, as likely as the residuals make them.

    The random-effects model r = T b + sd (sqrt(share) u_group + sqrt(1 - share) e), flat in b. The share is drawn from its
    restricted likelihood (Harville 1974), and sd^2 given it is n - r degrees of freedom over a chi-square, so that few
    residuals give Student's wide draws and few groups many shares. Before the residuals the variance within groups and the
    variance of their means are each flat in their logarithm (Jeffreys's prior: Box and Tiao 1973, section 5.2), which for
    groups of m runs is 1 / ((1 - share) (1 + (m - 1) share)). A flat share is too sure that five trunks share little.
    """
    if not np.isfinite(residual_n).all():
        raise np.linalg.LinAlgError("its prediction of a run is no number above 0")
    n, rank = tangent_nr.shape
    freedom = n - rank
    groups = int(member_n.max()) + 1
    size = np.bincount(member_n, minlength=groups).astype(float)
    by_group = np.zeros((groups, rank + 1))
    columns = np.column_stack([tangent_nr, residual_n])
    np.add.at(by_group, member_n, columns)
    gram = columns.T @ columns
    log_likelihood, squares = np.empty(len(SHARES)), np.empty(len(SHARES))
    for i, share in enumerate(SHARES):
        # The covariance of a group, (1 - share) I + share 1 1', is inverted in closed form.
        whole = 1 - share + share * size
        inner = (gram - by_group.T @ (by_group * (share / whole)[:, None])) / (1 - share)
        log_det = ((size - 1) * np.log(1 - share) + np.log(whole)).sum() + np.linalg.slogdet(inner[:-1, :-1])[1]
        squares[i] = inner[-1, -1] - inner[-1, :-1] @ np.linalg.solve(inner[:-1, :-1], inner[:-1, -1])
        log_likelihood[i] = -log_det / 2 - freedom / 2 * np.log(max(squares[i], EXACT))
    log_posterior = log_likelihood - np.log((1 - SHARES) * (1 + (size.mean() - 1) * SHARES))
    posterior = np.exp(log_posterior - log_posterior.max())
    drawn = rng.choice(len(SHARES), size=draws, p=posterior / posterior.sum())
    sd = np.sqrt(np.maximum(squares[drawn], 0.0) / rng.chisquare(freedom, draws))
    return sd, SHARES[drawn]


def leverage_corrected(residual_n: Array, member_n: Member, tangent_nr: Array) -> Array:
    """Residuals as if each group had been left out of the fit that predicts it: (I - H_gg)^-1 r_g, to first order.

    CR3 of Bell and McCaffrey (2002), the jackknife over groups; MacKinnon, Nielsen and Webb (2023) find the wild bootstrap
    best with it. A fit of |r| goes through P runs exactly, so the residuals are first taken to least squares.
    """
    corrected = residual_n - tangent_nr @ (tangent_nr.T @ residual_n)
    order = np.argsort(member_n, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(member_n[order])) + 1):
        directions, taken, _ = np.linalg.svd(tangent_nr[rows], full_matrices=False)
        more = 1 / np.maximum(1 - taken**2, LEAST_KEPT) - 1
        corrected[rows] += directions @ (more * (directions.T @ corrected[rows]))
    return np.asarray(corrected)
