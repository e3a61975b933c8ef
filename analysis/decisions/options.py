"""What a caller may ask of `recommend`, and of a study that ends in a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from analysis.decisions.costs import Prices
    from analysis.decisions.family import Members
    from analysis.decisions.limits import Limits


class DecisionOptions(TypedDict, total=False):
    """The question and what it is to be answered by, as `analysis.decisions.recommend.recommend` explains them."""

    flops: float | None
    target_loss: float | None
    budget: float | None
    demand_tokens: float | None
    prompt_share: float | None
    unique_tokens: float | None
    prices: Prices | None
    costs: Literal["auto", "flops", "measured"]
    limits: Limits | None
    sizes: Sequence[float]
    members: Members | None
