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
    """Whether what it moves the decision by is in the joint interval."""
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
    """The decision's whole interval: the draws, with what every choice that the runs don't reject moves them by on top."""

    decision: Literal["training_optimal", "lifetime_optimal"]
    counting: str
    """What N counts here: n_params wherever the table can tell."""
    contributions: tuple[Contribution, ...]
    """Sampling, seed, objective, outliers, law, counting: in this order, each once."""
    choices: tuple[Choice, ...]
    """Every choice tried, factor by factor, rejected ones too."""
    joint: dict[str, Interval] | None
    """95 % by n_params, n_tokens, loss and cost, sampling and choices together: over every draw, every combination of the
    joined choices is laid. Never narrower than sampling alone. Where the runs reject the law that was asked for: about the
    law that they prefer, so that the recommended size may lie outside. None without a bootstrap."""
    sd_log_n: float | None
    """Of ln N over the same."""
    draws: int
    """Of each refit."""
    preferred: Choice | None = None
    """The law that the runs prefer, where they reject the one that was asked for: what the decision would be by it."""
    warnings: tuple[str, ...] = ()
    """What the choices say against the fit itself."""
