"""What to say against a recommendation: each doubt a sentence."""

from __future__ import annotations

import numpy as np

from analysis.decisions.choose import Setting, pick
from analysis.decisions.costs import Prices
from analysis.decisions.reach import OPTIONS
from analysis.laws import get_law
from analysis.results import Fit, Optimum
from analysis.runs.table import RunTable
from analysis.words import count, number
from llama.errors import UserError


def check_repetition(table: RunTable, fit: Fit) -> None:
    """Refuse to discount repetition a second time.

    Raises:
        UserError: the runs repeat their data, and a law that doesn't know it was fitted to them.
    """
    if get_law(fit.law).uses_unique_tokens:
        return
    runs = table.fitted
    repeats = int((runs["n_tokens"] > runs["unique_tokens"] * 1.001).sum())
    if repeats:
        raise UserError(
            f"--unique-tokens discounts repeated tokens, and {repeats} of {len(runs)} runs repeat theirs already, which the "
            f"law {fit.law} has taken for fresh: both together would count repetition twice. Ask with --law data_constrained."
        )


def doubts(fit: Fit, setting: Setting, best: Optimum, prices: Prices) -> list[str]:
    said = []
    fitted = fit.fitted_range.tokens_per_param
    ratio = best.n_tokens / best.n_params
    if ratio > fitted.hi * 1.001:
        said.append(
            f"{number(ratio)} tokens a parameter are beyond the {number(fitted.hi)} of the runs: fits on shorter training "
            "overstate what extra tokens buy (Sardana et al. 2024, section 4)"
        )
    if setting.question.unique_tokens is not None and best.n_tokens > setting.question.unique_tokens:
        said.append(
            f"the data are seen {number(best.n_tokens / setting.question.unique_tokens)} times over: a loss under "
            "repetition is less certain than one on fresh tokens"
        )
    if prices.quantisation is not None:
        said.append(
            "the multiplier for quantisation leaves the loss alone, but models trained on more tokens a parameter lose more "
            "when quantised (Kumar et al. 2024, arXiv 2411.04330): measure the loss of the quantised model"
        )
    if setting.costs.source == "measured":
        for what, cost in (("training", setting.costs.train), ("serving", setting.costs.serve)):
            if len(cost.n_params_G) and not cost.n_params_G[0] * 0.999 <= best.n_params <= cost.n_params_G[-1] * 1.001:
                said.append(
                    f"the cost of {what} was measured from {count(float(cost.n_params_G[0]))} to "
                    f"{count(float(cost.n_params_G[-1]))} parameters: at {count(best.n_params)} it is a line's extrapolation"
                )
    return said


def unreached(fit: Fit, setting: Setting) -> list[str]:
    """Draws without an answer: they count as infinite, so that an interval without an upper end is what they leave."""
    if fit.draws_KP is None:
        return []
    lost = float(np.mean(~np.isfinite(pick(setting, get_law(fit.law), fit.draws_KP).n_params)))
    if not lost:
        return []
    return [
        f"{lost:.1%} of the resampled laws have no model that answers {OPTIONS[setting.question.kind]}: they count as infinite"
    ]
