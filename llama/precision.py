"""Compute precision, applied from outside: products in bfloat16 over float32 master weights, and one attention kernel.

Weights, their gradients and the optimiser's state are float32 whatever is computed in, and so is the loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama.config import AttentionKernel, DType
from llama.model import Attention, Llama

ATTENTION_KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}


def apply_precision(model: Llama, dtype: DType, device: torch.device) -> None:
    """Keep attention in float32 where a CPU computes the rest in bfloat16: there the flash kernel, forward and backward, takes
    5 to 6 times as long in bfloat16 as in float32 (`python -m benchmarks.train --attention`). Comes before compilation.
    """
    if device.type == "cpu" and dtype == "bfloat16":
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = attend_in_float32


def attend_in_float32(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, **options: Any) -> Tensor:
    with torch.autocast(q_BHTE.device.type, enabled=False):
        return F.scaled_dot_product_attention(q_BHTE.float(), k_BKTE.float(), v_BKTE.float(), **options)


@contextmanager
def precision(device: torch.device, dtype: DType, attention_kernel: AttentionKernel) -> Iterator[None]:
    """Compute in `dtype` by autocast over float32 master weights, with one attention kernel and no silent fallback."""
    with (
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"),
        sdpa_kernel(ATTENTION_KERNELS[attention_kernel]),
    ):
        yield
