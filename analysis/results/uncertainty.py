"""What a decision owes to the runs drawn, to their noise, and to choices that another analyst would make otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from analysis.results.basic import Interval

Factor = Literal["sampling", "seed", "objective", "outliers", "law", "counting"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The decision under one choice, all else as in the fit that was asked for."""

    factor: Factor
    choice: str
    """huber_log, kept, chinchilla, n_params ..."""
    used: bool
    """Whether this is what the fit itself did: its figures are those of the recommendation."""
    joined: bool
    """Whether its draws are in the joint interval."""
    reason: str | None
    """Why it has no part in the joint interval, in words; None where it has one."""
    n_params: float | None
    """Total parameters, or what the fit counts where the table can't convert; None where this choice has no answer."""
    n_tokens: float | None
    loss: float | None
    cost: float | None
    ci95: dict[str, Interval] | None
    """By n_params, n_tokens, loss and cost, from this choice's own draws."""
    sd_log_n: float | None
    """Sd of ln N over this choice's own draws."""


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one factor adds to the decision's spread."""

    factor: Factor
    sd_log_n: float | None
    """Sd of ln N: over draws for sampling and seed, over the choices that are not rejected for the others; None where the
    table can't vary it."""
    n_params: Interval | None
    """95 % interval of N over draws, or least and largest N over choices."""
    reason: str
    """One sentence: over what it was varied, or why it can't be."""


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """The decision's whole interval: draws of every choice that the data don't reject, in equal parts."""

    decision: Literal["training_optimal", "lifetime_optimal"]
    counting: str
    """What N counts here: n_params wherever the table can tell."""
    contributions: tuple[Contribution, ...]
    """Sampling, seed, objective, outliers, law, counting: in this order, each once."""
    choices: tuple[Choice, ...]
    """Every choice tried, factor by factor, rejected ones too."""
    joint: dict[str, Interval] | None
    """95 % by n_params, n_tokens, loss and cost: percentiles of the equal-weight mixture of the joined choices' draws. None
    without a bootstrap."""
    sd_log_n: float | None
    """Of ln N over that mixture."""
    draws: int
    """A choice."""
    warnings: tuple[str, ...] = ()
    """What the choices say against the fit itself."""

    def contribution(self, factor: Factor) -> Contribution:
        return next(part for part in self.contributions if part.factor == factor)
