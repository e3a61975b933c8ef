"""Closed forms for parameters, FLOPs and bytes; a training step's memory is in `llama.memory`.

No torch: planning and analysis count without building a model.

Conventions: training FLOPs count forward and backward as three forwards, and attention in full, without halving for the
causal mask. N_matmul includes the head and leaves out the input embedding.
"""

from __future__ import annotations

from typing import NamedTuple

from llama.config import ModelConfig


class ParameterCounts(NamedTuple):
    """One model's parameters under each counting rule."""

    n_params: int
    """All of them; a tied head counts once."""
    n_params_non_embedding: int
    """All less the input embedding and the head."""
    n_params_matmul: int
    """The weights of matrix products: attention, feed-forward and head, neither input embedding nor norms."""


def count_parameters(model: ModelConfig) -> ParameterCounts:
    """Parameter counts of a LLaMA: `V*d*2 + L*(4*d^2 + 3*d*d_ff + 2*d) + d` in all when heads are not grouped."""
    d, head = model.d_model, model.vocab_size * model.d_model
    attention = 2 * d * d + 2 * d * model.n_kv_heads * model.d_head
    matrices = model.n_layers * (attention + 3 * d * model.d_ff)
    norms = model.n_layers * 2 * d + d
    embeddings = head if model.tied_head else 2 * head
    return ParameterCounts(
        n_params=embeddings + matrices + norms,
        n_params_non_embedding=matrices + norms,
        n_params_matmul=matrices + head,
    )


def forward_flops_per_token(model: ModelConfig, context_tokens: int) -> int:
    """FLOPs to process one token that attends to `context_tokens`: 2 N_matmul + 4 L h d_head T."""
    attention = 4 * model.n_layers * model.n_heads * model.d_head * context_tokens
    return 2 * count_parameters(model).n_params_matmul + attention


def training_flops_per_token(model: ModelConfig) -> int:
    """FLOPs to train on one token at the full context: 6 N_matmul + 12 L h d_head T (PaLM, appendix B)."""
    return 3 * forward_flops_per_token(model, model.context_length)


def kv_bytes_per_token(model: ModelConfig, bytes_per_element: int) -> int:
    """Key and value cache of one token: 2 L n_kv_heads d_head elements."""
    return 2 * model.n_layers * model.n_kv_heads * model.d_head * bytes_per_element


def weight_bytes(model: ModelConfig, bytes_per_element: int) -> int:
    """Bytes of all weights at one precision."""
    return count_parameters(model).n_params * bytes_per_element


def checkpoint_bytes(model: ModelConfig) -> int:
    """A checkpoint's size: float32 weights and AdamW's two moments."""
    return 12 * count_parameters(model).n_params
