"""What a training step holds: `python -m benchmarks.memory` prints one JSON document.

Bytes are counted by torch's allocator on a CPU (`benchmarks.allocations`), so a busy machine changes none of them; they come
beside the closed form that plans use (`llama.memory`). Only the head is timed, chunked against whole, in CPU seconds of its
one thread.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, addmm_flop, sdpa_backward_flop, sdpa_flop

from benchmarks.allocations import Allocations, count_allocations
from benchmarks.machine import machine, versions
from llama.accounting import count_parameters, training_flops_per_token
from llama.activation_checkpointing import apply_activation_checkpointing
from llama.config import ActivationCheckpointing, DType, ModelConfig, llama_shape
from llama.loss import MeanCrossEntropy, next_token_loss
from llama.loss_chunks import loss_chunk_tokens
from llama.memory import training_bytes
from llama.model import Llama
from llama.precision import apply_precision, precision

CPU = torch.device("cpu")
aten = torch.ops.aten

#: What torch's FLOP counter passes over, counted as what it stands for: the CPU's fused attention, and a product that is added
#: in place, as `llama.loss` does from its second chunk on.
UNCOUNTED = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop(*shapes),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop(*shapes),
    aten.addmm_: lambda *shapes, **_: addmm_flop(*shapes),
}


def main() -> None:
    torch.set_num_threads(1)
    document = {
        "benchmark": "memory",
        "machine": machine(),
        "versions": versions("torch"),
        "by_context": [by_context(tokens) for tokens in (256, 512, 1024, 2048, 4096)],
        "by_vocabulary": [by_vocabulary(vocab) for vocab in (512, 8192, 32_000, 65_536)],
        "by_checkpointing": [
            by_checkpointing(dtype, how) for dtype in ("float32", "bfloat16") for how in ("none", "selective", "full")
        ],
        "head_seconds": [
            head_seconds(vocab, width, dtype)
            for dtype in ("float32", "bfloat16")
            for vocab in (512, 1024, 8192)
            for width in (64, 128, 256)
        ],
    }
    print(json.dumps(document, indent=1))


def shape(*, vocab: int, width: int, layers: int, context: int) -> ModelConfig:
    """A ladder's shape, heads of 32."""
    return llama_shape(
        width, n_layers=layers, n_heads=width // 32, d_ff_multiple_of=16, vocab_size=vocab, context_length=context
    )


def by_context(context: int) -> dict[str, Any]:
    """Forward and backward of one sequence by each kernel of attention; the plain one stores the scores."""
    config = shape(vocab=512, width=128, layers=4, context=context)
    peaks = {kernel: backward_allocations(config, 1, "float32", "none", kernel=kernel) for kernel in ("flash", "math")}
    return {"context_tokens": context, "peak_bytes": {kernel: peak.peak_bytes for kernel, peak in peaks.items()}}


def by_vocabulary(vocab: int) -> dict[str, Any]:
    """The head and its loss alone, forward and backward, in chunks and on whole logits: 2,048 tokens at width 128."""
    tokens = 2048
    x_ND, head_VD, targets_N = head_problem(tokens, 128, vocab)
    chunk = loss_chunk_tokens(vocab, "cpu")
    chunked = count_allocations(lambda: MeanCrossEntropy.apply(x_ND, head_VD, targets_N, chunk).backward())
    x_ND.grad = head_VD.grad = None
    whole = count_allocations(lambda: whole_loss(x_ND, head_VD, targets_N).backward())
    return {
        "vocab_size": vocab,
        "chunk_tokens": min(chunk, tokens),
        "head_gradient_bytes": head_VD.nbytes,
        "chunked": chunked._asdict(),
        "whole": whole._asdict(),
    }


def by_checkpointing(dtype: DType, how: ActivationCheckpointing) -> dict[str, Any]:
    """A model of width 256 and 8 layers, 8 sequences of 256 tokens: bytes kept, peak, FLOPs and the closed form's peak."""
    config, sequences = shape(vocab=1024, width=256, layers=8, context=256), 8
    tokens = sequences * config.context_length
    model, batch_BT = built(config, dtype, how), torch.zeros(sequences, config.context_length, dtype=torch.long)
    with precision(CPU, dtype, "flash"):
        kept = count_allocations(lambda: next_token_loss(model, batch_BT, batch_BT)).held_bytes
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as flops:
            next_token_loss(model, batch_BT, batch_BT).backward()
    predicted = training_bytes(
        config,
        batch_sequences=sequences,
        micro_batch_sequences=sequences,
        dtype=dtype,
        activation_checkpointing=how,
        device="cpu",
    )
    state = 12 * count_parameters(config).n_params
    return {
        "dtype": dtype,
        "activation_checkpointing": how,
        "kept_bytes": kept,
        "backward_peak_bytes": backward_allocations(config, sequences, dtype, how, kernel="flash").peak_bytes,
        "closed_form_bytes": predicted - state,
        "flops": flops.get_total_flops(),
        "flops_by_convention": training_flops_per_token(config) * tokens,
    }


def head_seconds(vocab: int, width: int, dtype: DType) -> dict[str, Any]:
    """Forward and backward of 1,024 tokens' head and loss, in turns, in CPU seconds: medians, and the least."""
    x_ND, head_VD, targets_N = head_problem(1024, width, vocab)
    chunk = loss_chunk_tokens(vocab, "cpu")
    losses: dict[str, Callable[[], Tensor]] = {
        "chunked": lambda: MeanCrossEntropy.apply(x_ND, head_VD, targets_N, chunk),
        "whole": lambda: whole_loss(x_ND, head_VD, targets_N),
    }
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(8 if vocab > 2048 else 40):
        for name, loss in losses.items():
            x_ND.grad = head_VD.grad = None
            started = time.process_time()
            with precision(CPU, dtype, "flash"):
                loss().backward()
            seconds[name].append(time.process_time() - started)
    return {
        "vocab_size": vocab,
        "d_model": width,
        "dtype": dtype,
        "median": {name: round(statistics.median(values[2:]), 6) for name, values in seconds.items()},
        "least": {name: round(min(values), 6) for name, values in seconds.items()},
    }


def backward_allocations(
    config: ModelConfig, sequences: int, dtype: DType, how: ActivationCheckpointing, *, kernel: str
) -> Allocations:
    """Of a forward and backward pass, gradients included."""
    model, batch_BT = built(config, dtype, how), torch.zeros(sequences, config.context_length, dtype=torch.long)
    with precision(CPU, dtype, kernel):
        return count_allocations(lambda: next_token_loss(model, batch_BT, batch_BT).backward())


def built(config: ModelConfig, dtype: DType, how: ActivationCheckpointing) -> Llama:
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(0))
    apply_precision(model, dtype, CPU)
    apply_activation_checkpointing(model, how)
    return model


def head_problem(tokens: int, width: int, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """States [N, D] and a head [V, D] that want gradients, and targets [N]."""
    draw = torch.Generator().manual_seed(0)
    x_ND = torch.randn(tokens, width, generator=draw).requires_grad_()
    head_VD = (width**-0.5 * torch.randn(vocab, width, generator=draw)).requires_grad_()
    return x_ND, head_VD, torch.randint(vocab, (tokens,), generator=draw)


def whole_loss(x_ND: Tensor, head_VD: Tensor, targets_N: Tensor) -> Tensor:
    """The plain loss: all logits, their log-probabilities and their gradient."""
    return F.cross_entropy(F.linear(x_ND, head_VD).float(), targets_N)


if __name__ == "__main__":
    main()
