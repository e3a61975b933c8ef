"""A loss surface whose best rates and batches are known, in place of training."""

import math
import random
from collections.abc import Sequence
from typing import Any

from llama.accounting import count_parameters
from llama.config import RunConfig
from sweeps.designs.spec import SweepSpec
from sweeps.tuning.trials import Reached, Stretch
from tests.sweeps.examples import CPU, FACTS, sweep

N_EXPONENT, D_EXPONENT, LR_AT_MIDDLE = -0.5, -0.25, 6e-3
BATCH_D_EXPONENT, BATCH_AT_MIDDLE = 0.3, 1024.0
N_MIDDLE, D_MIDDLE = 60_000, 1e6


def best_lr(n_params: float, tokens: float) -> float:
    return LR_AT_MIDDLE * (n_params / N_MIDDLE) ** N_EXPONENT * (tokens / D_MIDDLE) ** D_EXPONENT


def best_batch(tokens: float) -> float:
    return BATCH_AT_MIDDLE * (tokens / D_MIDDLE) ** BATCH_D_EXPONENT


def loss_of(config: RunConfig, *, noise: float = 0.0, batch_matters: bool = True) -> float:
    n, tokens = count_parameters(config.model).n_params, config.tokens or 0
    x = math.log(config.recipe.peak_lr / best_lr(n, tokens))
    y = math.log(config.batch_tokens / best_batch(tokens)) if batch_matters else 0.0
    scatter = random.Random(config.key).gauss(0, noise)
    return 2.0 + 300 / n**0.5 + 0.06 * x**2 + 0.004 * x**3 + 0.03 * y**2 + scatter


class FakeTraining:
    """Notes what it was asked to train. `dies_after` stretches it raises, as a driver that is killed does."""

    def __init__(self, *, noise: float = 0.0, batch_matters: bool = True, dies_after: int | None = None) -> None:
        self.noise, self.batch_matters, self.dies_after = noise, batch_matters, dies_after
        self.trained: list[tuple[str, int]] = []

    def __call__(self, stretches: Sequence[Stretch]) -> dict[str, Reached]:
        reached = {}
        for stretch in stretches:
            if self.dies_after is not None and len(self.trained) >= self.dies_after:
                raise KeyboardInterrupt
            self.trained.append((stretch.name, stretch.until_step))
            loss = loss_of(stretch.config, noise=self.noise, batch_matters=self.batch_matters)
            diverged = "loss is not finite" if stretch.config.recipe.peak_lr > 0.05 else None
            early = 0.5 if stretch.until_step < (stretch.config.steps or 0) else 0.0
            reached[stretch.config.key] = Reached(None if diverged else loss + early, diverged)
        return reached


def rate_sweep(*, horizons: Sequence[int] = (500_000, 1_000_000, 2_000_000), **tune: Any) -> SweepSpec:
    search = {"trials": 10, **tune}
    return sweep(
        ladder__widths=[16, 32, 64],
        budgets={"tokens": list(horizons)},
        recipe={"name": "width_and_horizon"},
        seeds={"base": [0, 1]},
        tune={"learning_rate": search},
    )


__all__ = ["CPU", "FACTS", "FakeTraining", "best_batch", "best_lr", "rate_sweep"]
