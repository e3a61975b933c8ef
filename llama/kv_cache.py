"""What a model that decodes keeps of the tokens it has seen."""

from __future__ import annotations

import torch
from torch import Tensor

from llama.config import ModelConfig


class KVCache:
    """Keys and values of the tokens seen so far, for one batch of sequences decoded in step."""

    def __init__(self, config: ModelConfig, *, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device):
        shape = (config.n_layers, batch, config.n_kv_heads, max_tokens, config.d_head)
        self.keys_LBKTE = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBKTE = torch.zeros(shape, dtype=dtype, device=device)
        self.tokens = 0

    def extend(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values; returns all of that layer's, old and new."""
        end = self.tokens + k_BKTE.shape[2]
        self.keys_LBKTE[layer, :, :, self.tokens : end] = k_BKTE
        self.values_LBKTE[layer, :, :, self.tokens : end] = v_BKTE
        return self.keys_LBKTE[layer, :, :, :end], self.values_LBKTE[layer, :, :, :end]
