"""What looks wrong with runs that could each be right: copies, columns swapped or in other units, losses that are none.

Nothing here is refused. The numbers are far from what anybody trained, and a fit to them would look like any other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

#: A loss above this many nats costs more than guessing evenly among three million tokens.
NO_CROSS_ENTROPY = 15.0
#: Below this many nats a token lies no language model: text is estimated to have more entropy (Hoffmann et al. 2022 fit 1.69,
#: the largest models trained stand near 1.7). Error rates and bits a byte lie below.
NO_LANGUAGE = 0.7
#: No language model has fewer parameters; so many millions or thousands have many.
LEAST_PARAMS = 1_000.0
#: No law can be fitted to fewer runs, whatever their numbers mean.
MIN_RUNS = 5
#: Runs named.
SHOWN = 5


def suspicions(frame: pd.DataFrame) -> tuple[str, ...]:
    """Warnings of a RunTable frame's usable runs."""
    runs = frame[frame["excluded"] == ""]
    if not len(runs):
        return ()
    n, d, loss = (runs[name].to_numpy(dtype=np.float64) for name in ("n_params", "n_tokens", "loss"))
    found = [_copies(runs), _high(loss)]
    if len(runs) >= MIN_RUNS:
        found += [_low(loss), _small(n), _short(n, d)]
    return tuple(said for said in found if said)


def _copies(runs: pd.DataFrame) -> str | None:
    """Runs of different ids that agree in N, D and loss to the last digit."""
    copied = runs.duplicated(["n_params", "n_tokens", "loss"], keep="first")
    if not copied.any():
        return None
    named = ", ".join(runs.loc[copied, "name"][:SHOWN]) + (" ..." if copied.sum() > SHOWN else "")
    return (
        f"{int(copied.sum())} of {len(runs)} runs have the N, D and loss of another to the last digit ({named}): copies of a "
        "run count as new evidence and narrow every interval. Take them out, or give them one run_id"
    )


def _high(loss: np.ndarray) -> str | None:
    high = int((loss > NO_CROSS_ENTROPY).sum())
    if not high:
        return None
    return (
        f"{high} losses are above {NO_CROSS_ENTROPY:g}, more nats a token than guessing costs: are they perplexities, or sums "
        "over tokens?"
    )


def _low(loss: np.ndarray) -> str | None:
    low = int((loss < NO_LANGUAGE).sum())
    if not low:
        return None
    return (
        f"{low} losses are below {NO_LANGUAGE:g} nats a token, less than language holds: are they error rates, or in bits a "
        "byte or in another unit?"
    )


def _small(n_params: np.ndarray) -> str | None:
    small = int((n_params < LEAST_PARAMS).sum())
    if not small:
        return None
    return (
        f"{small} models have fewer than {LEAST_PARAMS:g} parameters: is n_params in millions or billions? Write it in full, "
        "as 20e6"
    )


def _short(n_params: np.ndarray, n_tokens: np.ndarray) -> str | None:
    """Most runs with fewer tokens than parameters: nobody's design, but what swapped columns or mixed units look like."""
    if np.median(np.log(n_tokens) - np.log(n_params)) >= 0:
        return None
    return (
        f"{int((n_tokens < n_params).sum())} of {len(n_params)} runs saw fewer tokens than they have parameters: are n_params "
        "and n_tokens swapped, or in different units?"
    )
