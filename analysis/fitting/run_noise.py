"""Runs of a design, made or only planned, and how the noise of their log losses hangs together.

    log loss = log L(N, D) + the law's misfit at (N, D) + the seed's noise

The misfit belongs to a cell: seeds of one (N, D) share it, and repeating them doesn't average it away. Neighbours share it in
part, by exp(-h^2 / 2) at a distance of h lengths in (ln N, ln D), as a Gaussian process about the law (Sacks et al. 1989;
Kennedy and O'Hagan 2001); with a length of 0 every cell has one of its own, which is generous to designs that crowd their
runs. The seed's noise is shared in part by branches of one trunk (0.80 of its variance was measured,
docs/studies/trunk-and-branch.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.laws.base import Array
from llama.errors import UserError


class Cell(NamedTuple):
    """Runs of one size and length that differ in nothing but their seed."""

    n_params: float
    n_tokens: float
    runs: int = 1


@dataclass(frozen=True, kw_only=True)
class RunNoise:
    """Noise of the log loss of a run of typical noise; a `scale` on the run multiplies the seed's part."""

    sd: float
    """Between seeds of one cell."""
    misfit_sd: float = 0.0
    """Of the law at a cell, whatever the seed."""
    misfit_length: float = 0.0
    """In ln N and ln D: how far a misfit reaches."""
    trunk_share: float = 0.0
    """Share of the seeds' variance that branches of one trunk have in common."""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sd) and self.sd > 0):
            raise UserError(f"the noise's sd is {self.sd:g}; that of log loss between seeds is right, such as 0.005")
        if not (np.isfinite(self.misfit_sd) and self.misfit_sd >= 0):
            raise UserError(f"the noise's misfit_sd is {self.misfit_sd:g}; 0 or more is right")
        if not (np.isfinite(self.misfit_length) and self.misfit_length >= 0):
            raise UserError(f"the noise's misfit_length is {self.misfit_length:g}; 0 or more is right")
        if not 0 <= self.trunk_share < 1:
            raise UserError(f"the trunk_share is {self.trunk_share:g}; a share from 0 up to, not including, 1 is right")


@dataclass(frozen=True, kw_only=True)
class DesignRuns:
    """Runs by what decides what they can tell; equal (N, D) are seeds of one cell."""

    n_params_n: Array
    n_tokens_n: Array
    trunk_n: NDArray[np.str_]
    """What each run branches from; "" where nothing is shared."""
    scale_n: Array
    """The seed's noise over that of a typical run."""
    unique_tokens_n: Array
    """Infinite where nothing repeats."""

    def __len__(self) -> int:
        return len(self.n_params_n)

    @classmethod
    def of_cells(cls, cells: Iterable[Cell | tuple[float, float, int]]) -> DesignRuns:
        """The runs of planned cells. Replicate r of a size has one trunk, which all its lengths branch from.

        Raises:
            UserError: no run, or a cell that is no model.
        """
        rows: list[tuple[float, float, str]] = []
        for n_params, n_tokens, runs in cells:
            if not (0 < n_params < np.inf and 0 < n_tokens < np.inf and runs >= 1):
                raise UserError(
                    f"a cell of {n_params:g} parameters, {n_tokens:g} tokens and {runs} runs: all must be above 0"
                )
            rows += [(n_params, n_tokens, f"{n_params:.17g}-{r}") for r in range(runs)]
        if not rows:
            raise UserError("a design without runs tells nothing: name a cell at least")
        n_params_n, n_tokens_n, trunk_n = zip(*rows, strict=True)
        return cls(
            n_params_n=np.array(n_params_n, dtype=np.float64),
            n_tokens_n=np.array(n_tokens_n, dtype=np.float64),
            trunk_n=np.array(trunk_n),
            scale_n=np.ones(len(rows)),
            unique_tokens_n=np.full(len(rows), np.inf),
        )

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> DesignRuns:
        return DesignRuns(
            n_params_n=self.n_params_n[rows],
            n_tokens_n=self.n_tokens_n[rows],
            trunk_n=self.trunk_n[rows],
            scale_n=self.scale_n[rows],
            unique_tokens_n=self.unique_tokens_n[rows],
        )

    def __add__(self, other: DesignRuns) -> DesignRuns:
        return DesignRuns(
            n_params_n=np.concatenate([self.n_params_n, other.n_params_n]),
            n_tokens_n=np.concatenate([self.n_tokens_n, other.n_tokens_n]),
            trunk_n=np.concatenate([self.trunk_n, other.trunk_n]),
            scale_n=np.concatenate([self.scale_n, other.scale_n]),
            unique_tokens_n=np.concatenate([self.unique_tokens_n, other.unique_tokens_n]),
        )


def variance(runs: DesignRuns, noise: RunNoise) -> Array:
    """Of each run's log loss about the law (n,)."""
    return np.asarray((noise.sd * runs.scale_n) ** 2 + noise.misfit_sd**2)


def covariance(left: DesignRuns, right: DesignRuns, noise: RunNoise) -> Array:
    """Between the log losses of runs of `left` and *other* runs of `right` (n, m): trunk and misfit are all they may share."""
    same_trunk = (left.trunk_n[:, None] == right.trunk_n) & (left.trunk_n[:, None] != "")
    seeds = noise.trunk_share * noise.sd**2 * np.outer(left.scale_n, right.scale_n)
    return np.asarray(np.where(same_trunk, seeds, 0.0) + misfit_covariance(left, right, noise))


def misfit_covariance(left: DesignRuns, right: DesignRuns, noise: RunNoise) -> Array:
    """Between what the law misses at the cells of two sets of runs (n, m)."""
    squared = sum(
        np.subtract.outer(np.log(a), np.log(b)) ** 2
        for a, b in ((left.n_params_n, right.n_params_n), (left.n_tokens_n, right.n_tokens_n))
    )
    if noise.misfit_length == 0:
        return np.asarray(np.where(squared == 0, noise.misfit_sd**2, 0.0))
    return np.asarray(noise.misfit_sd**2 * np.exp(-squared / (2 * noise.misfit_length**2)))


def covariance_within(runs: DesignRuns, noise: RunNoise) -> Array:
    """Of the runs' log losses (n, n)."""
    matrix = covariance(runs, runs, noise)
    np.fill_diagonal(matrix, variance(runs, noise))
    return matrix


def by_cell(runs: DesignRuns, noise: RunNoise) -> tuple[DesignRuns, Array]:
    """One run for each cell, and the covariance (c, c) of the cells' log losses about the law as all runs together tell them.

    Nothing is lost. With Z the runs' membership of cells and S the covariance of the seeds' noise, generalised least squares
    has each cell's log loss with the covariance (Z' S^-1 Z)^-1, whatever the seeds of each cell; their misfits come on top.
    S is inverted trunk by trunk: (1 - share) I + share 1 1' in closed form.
    """
    keys = np.column_stack([runs.n_params_n, runs.n_tokens_n, runs.unique_tokens_n])
    _, first, cell_n = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    if len(first) == len(runs):
        return runs, covariance_within(runs, noise)
    cell_n, share = cell_n.ravel(), noise.trunk_share
    precision_cc = np.zeros((len(first), len(first)))
    root_n = 1 / (noise.sd * runs.scale_n)
    alone = runs.trunk_n == ""
    np.add.at(precision_cc, (cell_n[alone], cell_n[alone]), root_n[alone] ** 2)
    order = np.argsort(runs.trunk_n, kind="stable")
    for rows in np.split(order, np.flatnonzero(runs.trunk_n[order][1:] != runs.trunk_n[order][:-1]) + 1):
        if alone[rows[0]]:
            continue
        root = root_n[rows]
        taken = share / (1 - share + share * len(rows))
        block = (np.diag(root**2) - taken * np.outer(root, root)) / (1 - share)
        np.add.at(precision_cc, np.ix_(cell_n[rows], cell_n[rows]), block)
    cells = runs.take(first)
    return cells, np.asarray(np.linalg.inv(precision_cc) + misfit_covariance(cells, cells, noise))
