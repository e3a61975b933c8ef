"""Closed forms against the counted model, torch's FLOP counter and LLaMA's published sizes."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llama.accounting import (
    checkpoint_bytes,
    count_parameters,
    forward_flops_per_token,
    kv_bytes_per_token,
    training_flops_per_token,
    weight_bytes,
)
from llama.config import ModelConfig, llama_d_ff
from llama.kv_cache import KVCache
from llama.loss import next_token_loss
from llama.model import Llama


def model_config(*, d_head=4, n_heads=4, n_kv_heads=4, n_layers=2, d_ff=24, vocab=40, context=16, tied=False):
    return ModelConfig(
        vocab_size=vocab,
        d_model=d_head * n_heads,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_ff=d_ff,
        context_length=context,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tied_head=tied,
    )


@st.composite
def model_configs(draw):
    n_heads = draw(st.sampled_from([1, 2, 3, 4]))
    return model_config(
        d_head=draw(st.sampled_from([2, 4, 8])),
        n_heads=n_heads,
        n_kv_heads=draw(st.sampled_from([k for k in range(1, n_heads + 1) if n_heads % k == 0])),
        n_layers=draw(st.integers(1, 3)),
        d_ff=draw(st.sampled_from([8, 24, 40])),
        vocab=draw(st.integers(2, 60)),
        context=draw(st.sampled_from([4, 8, 16])),
        tied=draw(st.booleans()),
    )


@given(model_configs())
@settings(max_examples=30, deadline=None)
def test_parameter_counts_are_the_counted_models(config):
    model = Llama(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    norms = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)
    embedding, head = model.embedding.weight.numel(), model.head.weight.numel()
    counts = count_parameters(config)
    assert counts.n_params == counted
    assert counts.n_params_non_embedding == counted - embedding - (0 if config.tied_head else head)
    assert counts.n_params_matmul == counts.n_params_non_embedding - norms + head
    assert weight_bytes(config, 2) == 2 * counted
    assert checkpoint_bytes(config) == 12 * counted


@given(model_configs(), st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_flops_are_those_that_torch_counts(config, sequences):
    """To the FLOP, attention in full: the plain kernel computes the scores that the causal mask hides, and counts them."""
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(0))
    tokens = torch.zeros((sequences, config.context_length), dtype=torch.long)
    with FlopCounterMode(display=False) as forward, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(tokens)
    assert forward.get_total_flops() == forward_flops_per_token(config, config.context_length) * tokens.numel()
    with FlopCounterMode(display=False) as training, sdpa_kernel(SDPBackend.MATH):
        next_token_loss(model, tokens, tokens).backward()
    assert training.get_total_flops() == training_flops_per_token(config) * tokens.numel()


def test_forward_flops_grow_with_the_context_by_attention_alone():
    config = model_config(n_layers=3)
    per_context_token = forward_flops_per_token(config, 11) - forward_flops_per_token(config, 10)
    assert per_context_token == 4 * 3 * config.d_model


@pytest.mark.parametrize(
    ("width", "heads", "layers", "n_params"),
    [
        (4096, 32, 32, 6_738_415_616),
        (5120, 40, 40, 13_015_864_320),
        (6656, 52, 60, 32_528_943_616),
        (8192, 64, 80, 65_285_660_672),
    ],
)
def test_llama_sizes(width, heads, layers, n_params):
    config = model_config(
        d_head=width // heads,
        n_heads=heads,
        n_kv_heads=heads,
        n_layers=layers,
        d_ff=llama_d_ff(width, 256),
        vocab=32_000,
        context=2048,
    )
    assert count_parameters(config).n_params == n_params
    with torch.device("meta"):
        model = Llama(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == n_params


def test_accounting_and_memory_import_no_torch():
    code = "import sys, llama.accounting, llama.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_kv_bytes_are_the_caches():
    config = model_config(n_heads=4, n_kv_heads=2, n_layers=3)
    cache = KVCache(config, batch=5, max_tokens=7, dtype=torch.bfloat16, device=torch.device("cpu"))
    held = cache.keys_LBKTE.nbytes + cache.values_LBKTE.nbytes
    assert held == 5 * 7 * kv_bytes_per_token(config, 2)
