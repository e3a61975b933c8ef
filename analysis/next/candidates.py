"""Runs that could be made: a grid around those that were, or a file's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from itertools import count as count_up
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
#: Lengths closer than this in ln D are one: a length is rounded to whole steps.
SAME_LENGTH = 0.01
#: The most candidates that are weighed: more only take longer.
MOST = 500


class Trunk(NamedTuple):
    """A constant-rate run that branches can be forked off."""

    key: str
    """The `group` of its branches."""
    standing_tokens: tuple[float, ...] = ()
    """Where its checkpoints stand."""
    fork_share: float = 1.0
    """Share of a branch's tokens that are the trunk's: a WSD run's up to its cooldown."""
    seed: int | None = None

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
    """That were begun, of any seed."""
    first_seed: int | None = None
    """Of a cell that no run was made of."""
    new_seed: int | None = None
    """That no run of this size has."""
    most_tokens: float = np.inf
    """A longer run would be held out of fits."""
    needs: str = ""
    """What a sweep's YAML lacks for it, beside the cell."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Runs with names and costs."""

    names: tuple[str, ...]
    sizes: tuple[str, ...]
    """Labels in a sweep's ladder; "" where there are none."""
    runs: DesignRuns
    flops_m: Array
    seeds: tuple[int | None, ...]
    """None where nobody said."""
    needs: tuple[str, ...]
    """What a sweep's YAML lacks for the run, beside its cell."""

    def only(self, mask_m: NDArray[np.bool_]) -> Candidates:
        rows = np.flatnonzero(mask_m)
        return Candidates(
            names=tuple(self.names[row] for row in rows),
            sizes=tuple(self.sizes[row] for row in rows),
            runs=self.runs.take(rows),
            flops_m=self.flops_m[rows],
            seeds=tuple(self.seeds[row] for row in rows),
            needs=tuple(self.needs[row] for row in rows),
        )


def sizes_around(fit: Fit, train_flops: TokenCost) -> list[Size]:
    """Every size that was fitted, one more up and one down at their usual step."""
    sizes = np.unique([point.n_params for point in fit.points if not point.held_out])
    step = max(float(np.median(sizes[1:] / sizes[:-1])), LEAST_SIZE_STEP)
    return [
        Size("", float(n), float(train_flops(n)), _trunks_of(fit, float(n)))
        for n in np.concatenate([[sizes[0] / step], sizes, [sizes[-1] * step]])
    ]


def grid(fit: Fit, sizes: Sequence[Size], train_flops: TokenCost) -> Candidates:
    """Each size at lengths a factor of 2 apart.

    Lengths lie a factor of 2 around the fitted tokens a parameter, and cost from the cheapest finished run to four times the
    dearest. A cell that has a run is another seed of it. Off a trunk that stands a run costs what is left to train.
    """
    ratios, tokens = fit.fitted_range.tokens_per_param, fit.fitted_range.n_tokens
    made = np.array([train_flops(point.n_params) * point.n_tokens for point in fit.points if not point.held_out])
    last = np.ceil(np.log(tokens.hi / tokens.lo) / np.log(TOKENS_STEP)) + 3
    lengths = tokens.lo * TOKENS_STEP ** np.arange(-1, last)
    places = _Places(fit)
    rows = [
        (size, float(d), places.take(size, float(d)))
        for size in sizes
        for d in lengths
        if made.min() <= size.flops_per_token * d <= BEYOND * made.max()
        and ratios.lo / TOKENS_STEP <= d / size.n_params <= ratios.hi * TOKENS_STEP
        and d <= size.most_tokens
    ]
    return of_arrays(
        np.array([size.n_params for size, *_ in rows]),
        np.array([d for _, d, *_ in rows]),
        np.array([size.flops_per_token * trunk.tokens_to_train(d) for size, d, trunk in rows]),
        trunks=[trunk.key for *_, trunk in rows],
        sizes=tuple(size.label for size, *_ in rows),
        seeds=tuple(trunk.seed for *_, trunk in rows),
        needs=tuple(size.needs for size, *_ in rows),
    )


class _Places:
    """Which trunk each candidate branches off: one trunk has one run of a length, so that a repeat takes another seed's."""

    def __init__(self, fit: Fit) -> None:
        self._grouped = any(point.group for point in fit.points)
        self._lengths: dict[tuple[str, float], list[float]] = {}
        for point in fit.points:
            self._lengths.setdefault((point.group, point.n_params), []).append(point.n_tokens)

    def take(self, size: Size, n_tokens: float) -> Trunk:
        """A begun trunk of the size without a run of this length, else a new one; its key is "" where runs share nothing."""
        made = any(self._has(group, size, n_tokens) for group, n_params in self._lengths if n_params == size.n_params)
        fresh_seed = size.new_seed if made or size.trunks else size.first_seed
        if not (self._grouped or size.trunks):
            return Trunk("", seed=fresh_seed)
        stem = f"new-{size.label or format(size.n_params, '.17g')}"
        fresh = (Trunk(f"{stem}-{k}" if k else stem, seed=fresh_seed) for k in count_up())
        # Trunks at a learning rate that the fit leaves out have seeds that the fitted ones have too.
        begun = [trunk for trunk in size.trunks if (trunk.key, size.n_params) in self._lengths] or size.trunks
        trunk = next(trunk for trunk in chain(begun, fresh) if not self._has(trunk.key, size, n_tokens))
        self._lengths.setdefault((trunk.key, size.n_params), []).append(n_tokens)
        return trunk

    def _has(self, group: str, size: Size, n_tokens: float) -> bool:
        lengths = self._lengths.get((group, size.n_params), ())
        return any(abs(np.log(n_tokens / length)) < SAME_LENGTH for length in lengths)


def _trunks_of(fit: Fit, n_params: float) -> tuple[Trunk, ...]:
    """Of a table, by the groups of its runs; nobody knows what stands of them."""
    groups = (point.group for point in fit.points if point.group and point.n_params == n_params and not point.held_out)
    return tuple(Trunk(group) for group in dict.fromkeys(groups))


def of_arrays(
    n_params_m: Array,
    n_tokens_m: Array,
    flops_m: Array,
    *,
    trunks: Sequence[str],
    names: tuple[str, ...] | None = None,
    sizes: tuple[str, ...] | None = None,
    seeds: tuple[int | None, ...] | None = None,
    needs: tuple[str, ...] | None = None,
) -> Candidates:
    """Candidates at these sizes and lengths, each off a trunk of its own or another's ("" where runs share nothing)."""
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
        seeds=seeds or (None,) * len(n_params_m),
        needs=needs or ("",) * len(n_params_m),
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
    places = _Places(fit)
    trunks = [
        places.take(Size("", size, float(train_flops(size)), _trunks_of(fit, size)), tokens).key
        for size, tokens in zip(n.tolist(), d.tolist(), strict=True)
    ]
    return of_arrays(n, d, values.get("flops", train_flops(n) * d), trunks=trunks, names=names)
