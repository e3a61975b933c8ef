"""Runs that could be made: a grid around those that were, or a file's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fitting.run_noise import DesignRuns
from analysis.results import Array, Fit, TokenCost
from analysis.words import count
from llama.errors import UserError

#: Ratio of neighbouring lengths in the grid, and the least of neighbouring sizes beyond those that were trained.
TOKENS_STEP, LEAST_SIZE_STEP = 2.0, 1.4
#: How far the grid goes beyond the dearest finished run, in FLOPs.
BEYOND = 4.0
#: The most candidates that are weighed: more only take longer.
MOST = 500


class Trunk(NamedTuple):
    """A constant-rate run that branches can be forked off."""

    key: str
    """The `group` of its branches."""
    standing_tokens: tuple[float, ...]
    """Where its checkpoints stand."""
    fork_share: float
    """Share of a branch's tokens that are the trunk's: a WSD run's up to its cooldown."""

    def tokens_to_train(self, n_tokens: float) -> float:
        """Of a branch this long: from the last checkpoint before its fork, which rounding to steps may put 1 % later."""
        fork = self.fork_share * n_tokens
        return n_tokens - min(max((at for at in self.standing_tokens if at <= 1.01 * fork), default=0.0), fork)


class Size(NamedTuple):
    """A size that runs could be made of."""

    label: str
    """In a sweep's ladder; "" where there is none."""
    n_params: float
    """As the fit counts."""
    flops_per_token: float
    trunks: tuple[Trunk, ...] = ()
    """That stand, of any seed."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Runs with names and costs."""

    names: tuple[str, ...]
    sizes: tuple[str, ...]
    """Labels in a sweep's ladder; "" where there are none."""
    runs: DesignRuns
    flops_m: Array

    def only(self, mask_m: NDArray[np.bool_]) -> Candidates:
        rows = np.flatnonzero(mask_m)
        return Candidates(
            names=tuple(self.names[row] for row in rows),
            sizes=tuple(self.sizes[row] for row in rows),
            runs=self.runs.take(rows),
            flops_m=self.flops_m[rows],
        )


def sizes_around(fit: Fit, train_flops: TokenCost) -> list[Size]:
    """Every size that was fitted, one more up and one down at their usual step."""
    sizes = np.unique([point.n_params for point in fit.points if not point.held_out])
    step = max(float(np.median(sizes[1:] / sizes[:-1])), LEAST_SIZE_STEP)
    return [
        Size("", float(n), float(train_flops(n)))
        for n in np.concatenate([[sizes[0] / step], sizes, [sizes[-1] * step]])
    ]


def grid(fit: Fit, sizes: Sequence[Size], train_flops: TokenCost) -> Candidates:
    """Each size at lengths a factor of 2 apart.

    Lengths lie a factor of 2 around the fitted tokens a parameter, and cost from the cheapest finished run to four times the
    dearest. A cell that has a run is another seed of it. Off a trunk that stands a run costs what is left to train.
    """
    ratios, tokens = fit.fitted_range.tokens_per_param, fit.fitted_range.n_tokens
    made = np.array([train_flops(point.n_params) * point.n_tokens for point in fit.points if not point.held_out])
    standing = any(size.trunks for size in sizes)
    last = np.ceil(np.log(tokens.hi / tokens.lo) / np.log(TOKENS_STEP)) + 3
    lengths = tokens.lo * TOKENS_STEP ** np.arange(-1, last)
    branches = {(point.group, point.n_params, round(point.n_tokens / tokens.lo, 2)) for point in fit.points}
    rows = [
        (size, float(d), _free_trunk(size, float(d), branches, tokens.lo))
        for size in sizes
        for d in lengths
        if made.min() <= size.flops_per_token * d <= BEYOND * made.max()
        and ratios.lo / TOKENS_STEP <= d / size.n_params <= ratios.hi * TOKENS_STEP
    ]
    return of_arrays(
        fit,
        np.array([size.n_params for size, _, _ in rows]),
        np.array([d for _, d, _ in rows]),
        np.array([size.flops_per_token * (trunk.tokens_to_train(d) if trunk else d) for size, d, trunk in rows]),
        sizes=tuple(size.label for size, _, _ in rows),
        trunks=tuple(trunk.key if trunk else f"new-{size.label}" for size, _, trunk in rows) if standing else None,
    )


def _free_trunk(size: Size, n_tokens: float, branches: set[tuple[str, float, float]], unit: float) -> Trunk | None:
    """A trunk that stands and has no branch of this length yet; None: the run needs a new seed's."""
    return next(
        (trunk for trunk in size.trunks if (trunk.key, size.n_params, round(n_tokens / unit, 2)) not in branches), None
    )


def of_arrays(
    fit: Fit,
    n_params_m: Array,
    n_tokens_m: Array,
    flops_m: Array,
    *,
    names: tuple[str, ...] | None = None,
    sizes: tuple[str, ...] | None = None,
    trunks: Sequence[str] | None = None,
) -> Candidates:
    """Candidates at these sizes and lengths. Unless `trunks` says which, one branches off the first trunk of its size."""
    trunk_of = {point.n_params: point.group for point in reversed(fit.points) if point.group and not point.held_out}
    trunks = trunks or [trunk_of.get(n, f"new-{n:.17g}" if trunk_of else "") for n in n_params_m.tolist()]
    return Candidates(
        names=names or tuple(f"{count(n)} on {count(d)}" for n, d in zip(n_params_m, n_tokens_m, strict=True)),
        sizes=sizes or ("",) * len(n_params_m),
        runs=DesignRuns(
            n_params_n=n_params_m,
            n_tokens_n=n_tokens_m,
            trunk_n=np.array(trunks, dtype=np.str_),
            scale_n=np.ones(len(n_params_m)),
            unique_tokens_n=np.full(len(n_params_m), np.inf),
        ),
        flops_m=flops_m,
    )


def of_file(path: Path, fit: Fit, train_flops: TokenCost) -> Candidates:
    """A CSV with a row a candidate: n_params (as the fit counts) and n_tokens, optional flops and name.

    Raises:
        UserError: the file can't be read, lacks a column, or a value that can't be meant.
    """
    try:
        frame = pd.read_csv(path)
    except OSError as error:
        raise UserError(f"--candidates {path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--candidates {path} can't be read: {error}") from None
    for column in ("n_params", "n_tokens"):
        if column not in frame:
            raise UserError(
                f"--candidates {path} has no column {column}; it has {', '.join(map(str, frame.columns))}. A row a candidate "
                "with n_params and n_tokens is right, flops and name may stand beside them"
            )
    if not len(frame):
        raise UserError(f"--candidates {path} has no rows: name a candidate at least")
    values = {}
    for column in ("n_params", "n_tokens", "flops"):
        if column not in frame:
            continue
        numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=np.float64)
        bad = np.flatnonzero(~((numbers > 0) & (numbers < np.inf)))
        if len(bad):
            raise UserError(
                f"--candidates {path}, row {bad[0] + 1}: {column} is {frame[column].iloc[bad[0]]!r}; a number above 0 is right"
            )
        values[column] = numbers
    if len(frame) > MOST:
        raise UserError(f"--candidates {path} has {len(frame):,} rows; at most {MOST:,} are weighed")
    n, d = values["n_params"], values["n_tokens"]
    names = tuple(frame["name"].astype(str)) if "name" in frame else None
    return of_arrays(fit, n, d, values.get("flops", train_flops(n) * d), names=names)
