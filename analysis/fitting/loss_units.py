"""Losses in two units pooled in one table: some rows in bits a token, others in nats, a factor 1/ln 2 apart.

No law fits such a table, and the one that is fitted to it looks plausible. The factor is known, which makes it easy to see:
`check_units` splits the rows in two so that a smooth surface fits best once one part is divided by 1/ln 2, and refuses when
that explains nearly all of what the surface alone does not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.laws.base import Array
from llama.errors import UserError

#: log(1/ln 2): what bits add to the log of a loss in nats.
SHIFT = float(-np.log(np.log(2)))
#: With fewer rows a surface of six coefficients and a split of the rows fit anything.
MIN_RUNS = 12
#: Rows that each unit must have.
MIN_ROWS = 3
#: The surface's squared error must fall by this factor, and by more with few runs to spare: times 1 + 20 / (spare runs).
#: A smooth misfit as wide as the shift falls by about 4. Of 2,000 random laws, sharper than any published and with outliers
#: of 5 to 40 %, none tripped this; of 300 pooled tables all did but three.
LEAST_FALL = 10.0
#: And the sd that is left must make the shift stand out: a seventh of it.
MOST_LEFT = SHIFT / 7
#: After the fit: how far, in log loss, rows may lie from the factor and still be told by it.
NEAR_SHIFT = 0.06
MAX_ROUNDS = 60


def check_units(n_params_n: Array, n_tokens_n: Array, loss_n: Array, names: Sequence[str]) -> None:
    """Refuse losses that fall into two groups a factor 1/ln 2 apart.

    The surface is a quadratic in log N and log D, the split its best by alternation from several starts.

    Raises:
        UserError: names the rows of the smaller group.
    """
    if len(loss_n) < MIN_RUNS:
        return
    log_loss = np.log(loss_n)
    basis = _quadratic(np.log(n_params_n), np.log(n_tokens_n))
    if len(loss_n) < basis.shape[1] + MIN_RUNS // 2:
        return
    alone = log_loss - basis @ (basis.T @ log_loss)
    before = float(alone @ alone)
    if before <= len(loss_n) * (SHIFT / 20) ** 2:
        # Three shifted rows among n leave more than this, unless n is in the thousands.
        return
    shifted, after = _split(log_loss, basis, alone)
    smaller = min(int(shifted.sum()), int((~shifted).sum()))
    spare = len(loss_n) - basis.shape[1]
    left = np.sqrt(after / spare)
    if smaller >= MIN_ROWS and before >= LEAST_FALL * (1 + 20 / spare) * after and left <= MOST_LEFT:
        raise UserError(
            _message(shifted if shifted.sum() == smaller else ~shifted, bool(shifted.sum() == smaller), names)
        )


def check_outlying_units(log_residual_n: Array, outlying_n: NDArray[np.bool_], names: Sequence[str]) -> None:
    """Refuse a fit whose outliers are nearly all one factor off the law, and that factor is 1/ln 2 or ln 2.

    A few rows in another unit among hundreds move no surface, but are all off by the same.

    Raises:
        UserError: names those rows.
    """
    for above in (True, False):
        off = -log_residual_n if above else log_residual_n
        told = outlying_n & (np.abs(off - SHIFT) <= NEAR_SHIFT)
        if told.sum() >= MIN_ROWS and told.sum() >= 0.8 * outlying_n.sum():
            raise UserError(_message(told, above, names))


def _message(rows_n: NDArray[np.bool_], above: bool, names: Sequence[str]) -> str:
    chosen = [str(name) for name, of in zip(names, rows_n, strict=True) if of]
    named = ", ".join(chosen[:12]) + (f" and {len(chosen) - 12} more" if len(chosen) > 12 else "")
    factor, others = ("1.44 times (1/ln 2)", "bits") if above else ("0.69 times (ln 2)", "nats")
    rest = "nats" if above else "bits"
    return (
        f"{len(chosen)} of {len(rows_n)} losses are {factor} what their neighbours' would make them: they look like {others} "
        f"a token among {rest} a token ({named}). State every loss in one unit, or each row's "
        "in a column loss_unit (nats or bits)"
    )


def _quadratic(x_n: Array, y_n: Array) -> Array:
    """Orthonormal columns (n, at most 6) that span the quadratics in x and y."""
    x, y = ((values - values.mean()) / (values.std() or 1.0) for values in (x_n, y_n))
    columns = np.stack([np.ones_like(x), x, y, x**2, x * y, y**2], axis=1)
    left, singular, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, singular > 1e-6 * singular[0]])


def _split(log_loss_n: Array, basis_nQ: Array, alone_n: Array) -> tuple[NDArray[np.bool_], float]:
    """The rows that lie `SHIFT` above the rest, and the error then: by alternation from several starts, then row by row."""
    flat = log_loss_n - log_loss_n.mean()
    starts = [
        residual > np.quantile(residual, share) for residual in (alone_n, flat) for share in np.linspace(0.05, 0.95, 10)
    ]
    shifted_Sn = np.array(starts)
    for _ in range(MAX_ROUNDS):
        target = log_loss_n - SHIFT * shifted_Sn
        surface = (target @ basis_nQ) @ basis_nQ.T
        better = log_loss_n - surface > SHIFT / 2
        if (better == shifted_Sn).all():
            break
        shifted_Sn = better
    target = log_loss_n - SHIFT * shifted_Sn
    error_S = ((target - (target @ basis_nQ) @ basis_nQ.T) ** 2).sum(axis=1)
    best = int(np.argmin(error_S))
    shifted, error = shifted_Sn[best].copy(), float(error_S[best])
    own = 1 - (basis_nQ**2).sum(axis=1)
    for _ in range(MAX_ROUNDS):
        # Moving row i by s changes the squared error by 2 s r_i + s^2 (1 - h_i).
        target = log_loss_n - SHIFT * shifted
        residual = target - basis_nQ @ (basis_nQ.T @ target)
        change = 2 * np.where(shifted, SHIFT, -SHIFT) * residual + SHIFT**2 * own
        row = int(np.argmin(change))
        if change[row] >= -1e-12:
            break
        shifted[row] = ~shifted[row]
        error += float(change[row])
    return shifted, max(error, 1e-300)
