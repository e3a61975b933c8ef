"""Small configs that the tests of `llama` share."""

from __future__ import annotations

from typing import Any

from llama.config import DataConfig, ModelConfig, Recipe, RunConfig


def tiny_model(**changes: Any) -> ModelConfig:
    shape: dict[str, Any] = {
        "vocab_size": 300,
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "d_ff": 48,
        "context_length": 16,
        "rope_theta": 10_000.0,
        "norm_eps": 1e-5,
        "tied_head": False,
    }
    return ModelConfig(**(shape | changes))


def tiny_recipe(**changes: Any) -> Recipe:
    numbers: dict[str, Any] = {
        "name": "test",
        "peak_lr": 1e-2,
        "batch_sequences": 4,
        "warmup_tokens": 4 * 64,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "schedule": "wsd",
        "final_lr_ratio": 0.0,
        "cooldown_fraction": 0.2,
        "cooldown_min_steps": 5,
        "reference_tokens": 64 * 400,
        "transfer": None,
        "skip_sigma": None,
    }
    return Recipe(**(numbers | changes))


def tiny_run(*, corpus_digest: str = "0" * 64, weights: dict[str, float] | None = None, **changes: Any) -> RunConfig:
    recipe = changes.get("recipe", tiny_recipe())
    fields: dict[str, Any] = {
        "model": tiny_model(),
        "data": DataConfig(corpus_digest=corpus_digest, weights=weights or {"text": 1.0}, validation_tokens=256),
        "recipe": recipe,
        "tokens": 64 * 40,
        "seed": 0,
        "dtype": "float32",
        "compile": False,
        "attention_kernel": "flash",
        "micro_batch_sequences": recipe.batch_sequences,
        "activation_checkpointing": "none",
    }
    return RunConfig(**(fields | changes))


def branch_of(run: RunConfig) -> RunConfig:
    """The same numbers as a stand-alone WSD run, taken as a branch of its trunk."""
    return run.model_copy(update={"parent": run.trunk().key, "fork_step": run.cooldown_start_step})
