"""The fitted runs as the arrays that a law takes, and a digest that says which data a fit saw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.laws.base import Array

#: Column of a frame of fitted runs: each run's noise over the reference one's, where it isn't 1/sqrt(weight).
NOISE_SCALE = "noise_scale"


@dataclass(frozen=True, kw_only=True)
class RunArrays:
    """Runs of a frame as the arrays that a law takes."""

    frame: pd.DataFrame
    n_params: Array
    n_tokens: Array
    loss: Array
    weight: Array
    unique_tokens: Array | None
    """Infinite where nothing repeats; None where no run says."""

    @classmethod
    def of(cls, frame: pd.DataFrame, counting: str) -> RunArrays:
        unique = frame["unique_tokens"].to_numpy(dtype=np.float64)
        arrays = [frame[name].to_numpy(dtype=np.float64) for name in (counting, "n_tokens", "loss", "weight")]
        return cls(
            frame=frame,
            n_params=arrays[0],
            n_tokens=arrays[1],
            loss=arrays[2],
            weight=arrays[3],
            unique_tokens=None if np.isnan(unique).all() else np.where(np.isnan(unique), np.inf, unique),
        )

    @property
    def names(self) -> list[str]:
        return [str(name) for name in self.frame["name"]]

    @property
    def noise_scale(self) -> Array:
        return noise_scale(self.frame)

    @property
    def unique_or_inf(self) -> Array:
        return np.full_like(self.loss, np.inf) if self.unique_tokens is None else self.unique_tokens

    def only(self, mask_n: NDArray[np.bool_]) -> RunArrays:
        if mask_n.all():
            return self
        return RunArrays(
            frame=self.frame[mask_n],
            n_params=self.n_params[mask_n],
            n_tokens=self.n_tokens[mask_n],
            loss=self.loss[mask_n],
            weight=self.weight[mask_n],
            unique_tokens=None if self.unique_tokens is None else self.unique_tokens[mask_n],
        )

    def weighted(self, weight_n: Array, noise_scale_n: Array) -> RunArrays:
        """These runs with other weights than the table's, and with noise that the weights alone don't tell."""
        frame = self.frame.assign(weight=weight_n, **{NOISE_SCALE: noise_scale_n})
        return replace(self, frame=frame, weight=weight_n)


def noise_scale(runs: pd.DataFrame) -> Array:
    """The noise of each run over the typical one's.

    A weight has one meaning: a run of weight w counts as w runs, as if its loss were the mean of w, and so scatters as
    1/sqrt(w). Weights that were made of the noise between seeds come with the noise itself, which then goes.
    """
    if NOISE_SCALE in runs:
        scale = runs[NOISE_SCALE].to_numpy(dtype=np.float64)
    else:
        scale = 1 / np.sqrt(runs["weight"].to_numpy(dtype=np.float64))
    return np.asarray(scale / np.exp(np.log(scale).mean())) if len(scale) else scale


def data_digest(runs: RunArrays, held_out: RunArrays, counting: str) -> str:
    """SHA-256 of what was fitted and held out and of the counting rule; the order and names of runs don't count."""
    lines = [
        " ".join([*(float(value).hex() for value in row), str(is_held_out)])
        for part, is_held_out in ((runs, False), (held_out, True))
        for row in zip(part.n_params, part.n_tokens, part.loss, part.weight, part.unique_or_inf, strict=True)
    ]
    return hashlib.sha256("\n".join([counting, *sorted(lines)]).encode()).hexdigest()
