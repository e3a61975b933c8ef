"""LLaMA (Touvron et al. 2023, section 2.2): pre-norm RMSNorm, SwiGLU, rotary embedding, untied head.

The model is plain: precision, compilation and recomputation are applied to it from outside.

Shape suffixes, of all modules: B sequences of a batch, M of a micro-batch; T tokens of a sequence, S = T + 1 with the last
target; N = B T tokens, C of a chunk of them; L layers, D d_model, H heads, K key-value heads, A of both kinds in one tensor, E
d_head, R = E/2 pairs that turn together, F d_ff, V vocabulary; W steps that are remembered.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama.config import ModelConfig, Transfer
from llama.kv_cache import KVCache
from llama.parametrization import weight_scales


def rotary_table(config: ModelConfig, max_tokens: int) -> Tensor:
    """Rotations e^(i t theta^(-2j/E)) as a complex [max_tokens, E/2] (Su et al. 2021; theta in the config)."""
    exponents = torch.arange(0, config.d_head, 2, dtype=torch.float64) / config.d_head
    angles = torch.outer(torch.arange(max_tokens, dtype=torch.float64), config.rope_theta**-exponents)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def rotate(x_BTAE: Tensor, rotation_TR: Tensor) -> Tensor:
    """Rotate neighbouring pairs of each head by its position, always in float32: late positions need its digits."""
    pairs = torch.view_as_complex(x_BTAE.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation_TR[:, None]).flatten(-2).type_as(x_BTAE)


class Attention(nn.Module):
    """Causal multi-head attention with rotary embedding; fewer key-value heads than heads is grouped-query attention."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        self.qkv = nn.Linear(config.d_model, (config.n_heads + 2 * config.n_kv_heads) * config.d_head, bias=False)
        self.out = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=False)
        # `llama.precision` may put another around it.
        self.attend: Callable[..., Tensor] = F.scaled_dot_product_attention

    def forward(self, x_BTD: Tensor, rotation_TR: Tensor, cache: KVCache | None) -> Tensor:
        qkv_BTAE = self.qkv(x_BTD).unflatten(-1, (-1, self.d_head))
        qk_BTAE, v_BTKE = qkv_BTAE.split([self.n_heads + self.n_kv_heads, self.n_kv_heads], dim=2)
        q_BHTE, k_BKTE = rotate(qk_BTAE, rotation_TR).transpose(1, 2).split([self.n_heads, self.n_kv_heads], dim=1)
        v_BKTE = v_BTKE.transpose(1, 2)
        causal = True
        if cache is not None:
            # A single new token sees every cached one, and itself: no mask is needed.
            causal = cache.tokens == 0
            k_BKTE, v_BKTE = cache.extend(self.layer, k_BKTE, v_BKTE)
        y_BHTE = self.attend(q_BHTE, k_BKTE, v_BKTE, is_causal=causal, enable_gqa=self.n_kv_heads != self.n_heads)
        return self.out(y_BHTE.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x) (Shazeer 2020), gate and up in one product."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up(x_BTD).chunk(2, dim=-1)
        return self.down(F.silu(gate_BTF) * up_BTF)


class Block(nn.Module):
    """One transformer layer: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.feed_forward_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x_BTD: Tensor, rotation_TR: Tensor, cache: KVCache | None = None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotation_TR, cache)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


class Llama(nn.Module):
    """The decoder. `max_tokens` bounds the positions it can take; training needs the context length.

    Weights are undefined until `initialise` or a checkpoint fills them.
    """

    rotation_TR: Tensor

    def __init__(self, config: ModelConfig, *, max_tokens: int | None = None):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied_head:
            self.head.weight = self.embedding.weight
        table = rotary_table(config, max_tokens or config.context_length)
        self.register_buffer("rotation_TR", table, persistent=False)

    def hidden(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Final normed states [B, T, D]. With a cache, `tokens_BT` continue what it holds: many into an empty cache, then one
        at a time."""
        start = 0 if cache is None else cache.tokens
        if start and tokens_BT.shape[1] > 1:
            raise ValueError("a cache that holds tokens goes on by one token at a time")
        if start + tokens_BT.shape[1] > len(self.rotation_TR):
            raise ValueError(f"position {start + tokens_BT.shape[1]} is beyond the model's {len(self.rotation_TR)}")
        rotation_TR = self.rotation_TR[start : start + tokens_BT.shape[1]]
        x_BTD = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotation_TR, cache)
        if cache is not None:
            cache.tokens += tokens_BT.shape[1]
        return self.norm(x_BTD)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits [B, T, V] for the token after each one."""
        return self.head(self.hidden(tokens_BT, cache))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator, transfer: Transfer | None = None) -> None:
        """Draw the weights: norms one, all others normal with the deviations of `llama.parametrization`, which with a base
        shape to transfer from are CompleteP's.
        """
        for name, weight in self.named_parameters():
            deviation = weight_scales(name, self.config, transfer).deviation
            if deviation is None:
                weight.fill_(1.0)
            else:
                weight.normal_(std=deviation, generator=generator)
