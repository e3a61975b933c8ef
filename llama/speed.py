"""How fast one model shape trains on this device, alone: what plans are calibrated with."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from llama.config import RunConfig
from llama.device import pick_device
from llama.training_state import TrainingState

WARMUP_STEPS = 3


def measure_training_speed(config: RunConfig, *, seconds: float, threads: int = 1) -> float:
    """Tokens a second over whole steps (forward, backward, clip, update) on random tokens, for about `seconds`.

    The median of stretches of at least 50 ms, so that a moment's load on a shared machine does not count. Compiling comes
    before.
    """
    step = warm_step(config, threads=threads)
    speeds: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or not speeds:
        steps, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < 0.05:
            step()
            steps += 1
        speeds.append(steps * config.batch_tokens / elapsed)
    return sorted(speeds)[len(speeds) // 2]


def warm_step(config: RunConfig, *, threads: int) -> Callable[[], None]:
    """A whole training step on random tokens that waits for its end, compiled and warmed up."""
    device = pick_device()
    torch.set_num_threads(threads)
    state = TrainingState(config, device)
    shape = (config.recipe.batch_sequences, config.model.context_length + 1)
    generator = torch.Generator().manual_seed(0)
    tokens_BS = torch.randint(config.model.vocab_size, shape, generator=generator).to(device)

    def step() -> None:
        state.update(tokens_BS, learning_rate=1e-4).loss.item()

    for _ in range(WARMUP_STEPS):
        step()
    return step
