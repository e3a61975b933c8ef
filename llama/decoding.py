"""Greedy decoding with a key-value cache."""

from __future__ import annotations

import torch
from torch import Tensor

from llama.kv_cache import KVCache
from llama.model import Llama


@torch.inference_mode()
def prefill(model: Llama, prompt_BT: Tensor, *, max_tokens: int, dtype: torch.dtype) -> tuple[Tensor, KVCache]:
    """Read a batch of equally long prompts; returns the next token of each, [B, 1], and the cache to go on from."""
    cache = KVCache(model.config, batch=prompt_BT.shape[0], max_tokens=max_tokens, dtype=dtype, device=prompt_BT.device)
    hidden_BTD = model.hidden(prompt_BT, cache)
    return model.head(hidden_BTD[:, -1:]).argmax(-1), cache


@torch.inference_mode()
def decode_step(model: Llama, token_B1: Tensor, cache: KVCache) -> Tensor:
    """The token after `token_B1` for each sequence, [B, 1]."""
    return model(token_B1, cache).argmax(-1)


def generate(model: Llama, prompt_BT: Tensor, *, new_tokens: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Greedy continuation [B, new_tokens]. The model's `max_tokens` must hold prompt and continuation."""
    token_B1, cache = prefill(model, prompt_BT, max_tokens=prompt_BT.shape[1] + new_tokens, dtype=dtype)
    tokens = [token_B1]
    for _ in range(new_tokens - 1):
        tokens.append(decode_step(model, tokens[-1], cache))
    return torch.cat(tokens, dim=1)
