"""Training steps to be timed against each other: ours, and Hugging Face's `LlamaForCausalLM` as its documentation trains it.

Equal shapes, equal batches, fused AdamW, the gradient clipped, one thread; each reads its loss at the end of a step. Hugging
Face's model is compiled whole, as `torch.compile(model)` does, and computes in bfloat16 under autocast. Ours is built by the
trainer's own `TrainingState`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from llama.config import DataConfig, ModelConfig, RunConfig
from llama.recipes import Overrides, make_recipe
from llama.training_state import TrainingState
from sweeps.designs.numerics import attention_kernel

LEARNING_RATE = 1e-3


class Contender(NamedTuple):
    step: Callable[[], float]
    """Trains on the batch once; returns its loss."""
    start_seconds: float
    """Of building, compiling where it is, and a first step."""


def start(name: str, model: ModelConfig, tokens_BS: torch.Tensor, device: torch.device) -> Contender:
    """`name` is `ours` or `hugging_face`, then `eager` or `compiled`, then `float32` or `bfloat16`, apart by spaces."""
    whose, how, dtype = name.split()
    make = {"ours": _ours, "hugging_face": _hugging_face}[whose]
    started = time.perf_counter()
    step = make(model, tokens_BS, device, how == "compiled", dtype)
    step()
    return Contender(step, time.perf_counter() - started)


def run_config(
    model: ModelConfig, batch_sequences: int, device: torch.device, *, compile: bool, dtype: Any
) -> RunConfig:
    batch_tokens = batch_sequences * model.context_length
    own = Overrides(batch_tokens=batch_tokens)
    return RunConfig(
        model=model,
        data=DataConfig(corpus_digest="0" * 64, weights={"text": 1.0}, validation_tokens=1),
        recipe=make_recipe("width_and_horizon", model, 1000 * batch_tokens, own),
        tokens=None,
        seed=0,
        micro_batch_sequences=batch_sequences,
        activation_checkpointing="none",
        dtype=dtype,
        compile=compile,
        attention_kernel=attention_kernel(dtype, device.type),
    )


def _ours(
    model: ModelConfig, tokens_BS: torch.Tensor, device: torch.device, compile: bool, dtype: str
) -> Callable[[], float]:
    state = TrainingState(run_config(model, len(tokens_BS), device, compile=compile, dtype=dtype), device)
    return lambda: state.update(tokens_BS, LEARNING_RATE).loss.item()


def _hugging_face(
    model: ModelConfig, tokens_BS: torch.Tensor, device: torch.device, compile: bool, dtype: str
) -> Callable[[], float]:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.d_model,
        intermediate_size=model.d_ff,
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        num_key_value_heads=model.n_kv_heads,
        max_position_embeddings=model.context_length,
        rms_norm_eps=model.norm_eps,
        tie_word_embeddings=model.tied_head,
        use_cache=False,
        attn_implementation="sdpa",
    )
    peer = LlamaForCausalLM(shape).to(device)
    optimizer = torch.optim.AdamW(peer.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(peer) if compile else peer
    inputs_BT = tokens_BS[:, :-1].contiguous()

    def step() -> float:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(input_ids=inputs_BT, labels=inputs_BT).loss
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return step
