"""What repeated data are worth (Muennighoff et al. 2023, arXiv 2305.16264, section 3).

U unique tokens seen R + 1 times count as D' = U + U R* (1 - exp(-R/R*)) fresh ones: the first repetitions are nearly as good
as new data, and no number of them is worth more than U (1 + R*). The same form discounts parameters beyond those that U
tokens can use. Below U nothing is discounted; an infinite U means that nothing repeats.
"""

from __future__ import annotations

import numpy as np

from analysis.results.basic import Array

#: Muennighoff et al. 2023: repetitions of data and excess of parameters at which 1 - 1/e of what they can ever give is used
#: up, fitted to runs on subsets of C4. Up to four epochs are nearly free, beyond forty little is gained.
R_D_STAR = 15.387756
R_N_STAR = 5.309743


def effective_tokens(n_tokens: Array | float, unique_tokens: Array | float, r_star: Array | float = R_D_STAR) -> Array:
    """D', the fresh tokens that `n_tokens` drawn from `unique_tokens` are worth."""
    repetitions = np.maximum(np.divide(n_tokens, unique_tokens) - 1, 0.0)
    return np.asarray(np.minimum(n_tokens, unique_tokens) * (1 - r_star * np.expm1(-repetitions / r_star)))


def tokens_for_effective(
    effective: Array | float, unique_tokens: Array | float, r_star: Array | float = R_D_STAR
) -> Array:
    """The D that is worth `effective` fresh tokens; infinite where no number of repetitions is."""
    effective, unique_tokens = np.asarray(effective, dtype=np.float64), np.asarray(unique_tokens, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        used = np.maximum(effective / unique_tokens - 1, 0.0) / r_star
        reachable = used < 1
        repetitions = -r_star * np.log1p(-np.where(reachable, used, 0.0))
    return np.where(reachable, np.minimum(effective, unique_tokens) * (1 + repetitions), np.inf)


def log_elasticity(n_tokens: Array | float, unique_tokens: Array | float, r_star: Array | float = R_D_STAR) -> Array:
    """ln of d ln D' / d ln D: 0 where nothing repeats, falling without end as repetitions stop paying."""
    repetitions = np.maximum(np.divide(n_tokens, unique_tokens) - 1, 0.0)
    worth = 1 - r_star * np.expm1(-repetitions / r_star)
    return np.asarray(np.log1p(repetitions) - np.log(worth) - repetitions / r_star)
