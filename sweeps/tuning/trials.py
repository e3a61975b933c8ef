"""What a trial is and what came of it: the rows that fits, pictures and files are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llama.config import RunConfig
from llama.records import Record

TrialState = Literal["running", "finished", "censored", "diverged"]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A run, to be trained up to a step. The step before its end leaves a checkpoint from which it goes on."""

    name: str
    config: RunConfig
    until_step: int


class Reached(NamedTuple):
    """What a stretch came to."""

    loss: float | None
    """Validation loss at its last step; None where that was not taken, or the run diverged before."""
    diverged: str | None = None
    """Why."""


Train = Callable[[Sequence[Stretch]], Mapping[str, Reached]]
"""Trains stretches side by side and says by run key what they came to. What exists is not trained again."""


class Trial(Record):
    """One trial of a search for rates."""

    cell: str
    """Size and horizon, as in the names of runs."""
    number: int
    state: TrialState
    run_key: str
    n_params: int
    tokens: int
    peak_lr: float
    batch_tokens: int
    seed: int
    loss: float | None = None
    """Final validation loss, of a finished trial alone: a censored one has none, and is no point of any fit."""
    judged_loss: float | None = None
    """Validation loss where pruning judged it."""
