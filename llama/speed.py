"""How fast one model shape trains on this device, alone: what plans are calibrated with."""

from __future__ import annotations

import time

import torch

from llama.config import ModelConfig, Recipe
from llama.device import pick_device, precision, use_threads
from llama.model import Llama
from llama.optimizer import make_optimizer
from llama.training_step import training_step

WARMUP_STEPS = 3


def measure_training_speed(
    model_config: ModelConfig,
    recipe: Recipe,
    *,
    dtype: str,
    attention_kernel: str,
    compile: bool = False,
    seconds: float,
    threads: int = 1,
) -> float:
    """Tokens a second over whole steps (forward, backward, clip, update) on random tokens, for about `seconds`.

    The median of windows of at least 50 ms, so that a moment's load on a shared machine does not count.
    """
    device = pick_device()
    use_threads(threads)
    model = Llama(model_config)
    model.initialise(torch.Generator().manual_seed(0))
    model.to(device)
    if compile:
        torch._dynamo.reset()
        for block in model.blocks:
            block.compile()
    optimizer = make_optimizer(model, recipe)
    shape = (recipe.batch_sequences, model_config.context_length + 1)
    tokens_BS = torch.randint(model_config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).to(device)

    def step() -> None:
        with precision(device, dtype, attention_kernel):
            result = training_step(
                model,
                optimizer,
                tokens_BS,
                micro_batch_sequences=recipe.batch_sequences,
                learning_rate=1e-4,
                clip_norm=recipe.clip_norm,
            )
        result.loss.item()

    for _ in range(WARMUP_STEPS):
        step()
    speeds: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or not speeds:
        steps, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < 0.05:
            step()
            steps += 1
        speeds.append(steps * recipe.batch_sequences * model_config.context_length / elapsed)
    return sorted(speeds)[len(speeds) // 2]
