"""Which trials of a search for rates are stopped early."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama.config import RunConfig
from sweeps.designs.tune_block import Pruning


def judged_step(rule: Pruning, config: RunConfig) -> int:
    """Where a trial is judged."""
    assert config.steps is not None  # a trial has a length
    return max(1, round(rule.at * config.steps))


def is_hopeless(rule: Pruning, loss: float, earlier: Sequence[float]) -> bool:
    """Whether a trial is stopped: its loss is above a quantile of those of its cell's earlier trials at the same tokens, the
    ones that were stopped included. It depends on earlier generations alone, so that the same is decided after a crash.
    """
    return len(earlier) >= rule.after and loss > float(np.quantile(earlier, rule.above))
