"""The closed form of a training step's memory against what torch's allocator saw of real steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.allocations import count_allocations
from llama.accounting import count_parameters
from llama.activation_checkpointing import apply_activation_checkpointing
from llama.config import ActivationCheckpointing, DType, ModelConfig
from llama.loss import next_token_loss
from llama.loss_chunks import loss_chunk_tokens
from llama.memory import kept_bytes_per_token, training_bytes
from llama.model import Llama
from llama.optimizer import make_optimizer
from llama.precision import apply_precision, precision
from llama.training_step import training_step
from tests.llama.shapes import tiny_model, tiny_recipe

WIDE: dict[str, Any] = {"d_model": 64, "d_ff": 176}

#: Shape, micro-batch, micro-batches: activations dominate, then a large vocabulary, parameters, depth, and sums of gradients.
STEPS: dict[str, tuple[dict[str, Any], int, int]] = {
    "activations": (WIDE | {"n_layers": 4, "context_length": 128}, 8, 1),
    "long context": (WIDE | {"n_heads": 2, "n_kv_heads": 2, "context_length": 1024}, 1, 1),
    "vocabulary": (WIDE | {"vocab_size": 8192, "context_length": 128}, 8, 1),
    "tied vocabulary": (WIDE | {"vocab_size": 8192, "context_length": 128, "tied_head": True}, 8, 1),
    "parameters": ({"d_model": 128, "d_ff": 352, "n_kv_heads": 1}, 1, 1),
    "accumulation": ({"d_model": 128, "d_ff": 352, "n_kv_heads": 2, "n_layers": 3, "context_length": 64}, 4, 2),
    "tied accumulation": ({"d_ff": 96, "n_layers": 8, "tied_head": True}, 2, 4),
}


def measured_bytes(
    model_config: ModelConfig, micro: int, parts: int, dtype: DType, how: ActivationCheckpointing
) -> int:
    """Weights and moments, and the most that a second step allocates beside them."""
    device, recipe = torch.device("cpu"), tiny_recipe()
    model = Llama(model_config)
    model.initialise(torch.Generator().manual_seed(0))
    apply_precision(model, dtype, device)
    apply_activation_checkpointing(model, how)
    optimizer = make_optimizer(model, recipe)
    tokens_BS = torch.zeros(micro * parts, model_config.context_length + 1, dtype=torch.long)

    def step() -> None:
        with precision(device, dtype, "flash"):
            training_step(model, optimizer, tokens_BS, micro_batch_sequences=micro, learning_rate=1e-3, clip_norm=1.0)

    step()
    return 12 * count_parameters(model_config).n_params + count_allocations(step).peak_bytes


@pytest.mark.parametrize("how", ["none", "selective", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("step", STEPS)
def test_training_bytes_are_those_of_a_step(step: str, dtype: DType, how: ActivationCheckpointing) -> None:
    """Within 7 %: in float32 within 3 %."""
    shape, micro, parts = STEPS[step]
    model = tiny_model(**shape)
    predicted = training_bytes(
        model,
        batch_sequences=micro * parts,
        micro_batch_sequences=micro,
        dtype=dtype,
        activation_checkpointing=how,
        device="cpu",
    )
    tolerance = 0.03 if dtype == "float32" else 0.07
    assert predicted == pytest.approx(measured_bytes(model, micro, parts, dtype, how), rel=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_kv_heads", [1, 4])
def test_one_more_layer_keeps_what_is_said(dtype: DType, n_kv_heads: int) -> None:
    for how in ("none", "selective", "full"):
        held = []
        for layers in (2, 3):
            config = tiny_model(**WIDE, n_layers=layers, n_kv_heads=n_kv_heads, context_length=64)
            model = Llama(config)
            model.initialise(torch.Generator().manual_seed(0))
            apply_precision(model, dtype, torch.device("cpu"))
            apply_activation_checkpointing(model, how)
            tokens_BT = torch.zeros(2, 64, dtype=torch.long)
            with precision(torch.device("cpu"), dtype, "flash"):
                held.append(count_allocations(lambda m=model, t=tokens_BT: next_token_loss(m, t, t)).held_bytes)
        matrices = 64 * (64 + 2 * 16 * n_kv_heads + 64 + 3 * 176)
        copies = 2 * matrices if dtype == "bfloat16" else 0
        expected = 2 * 64 * kept_bytes_per_token(config, dtype=dtype, activation_checkpointing=how, device="cpu")
        assert held[1] - held[0] - copies == expected


def test_chunks_of_the_loss_follow_their_rule() -> None:
    assert loss_chunk_tokens(512, "cpu") == 1024
    assert loss_chunk_tokens(32_000, "cpu") == 128
    assert loss_chunk_tokens(32_000, "cuda") == 2097
    assert loss_chunk_tokens(2**20, "cuda") == 1024
