"""The four LLaMA sizes by name (Touvron et al. 2023, table 2; 33B is the paper's 32.5B)."""

from __future__ import annotations

from typing import Literal

from llama.config import ModelConfig, llama_shape

ReleasedSize = Literal["7B", "13B", "33B", "65B"]

#: The released tokenizer's vocabulary and the released models' context; the paper itself states neither.
VOCAB_SIZE = 32_000
CONTEXT_LENGTH = 2_048

#: Name -> (width, layers, heads). Every head is 128 wide and has its own keys and values.
_TABLE_2: dict[ReleasedSize, tuple[int, int, int]] = {
    "7B": (4096, 32, 32),
    "13B": (5120, 40, 40),
    "33B": (6656, 60, 52),
    "65B": (8192, 80, 64),
}


def released_size(
    name: ReleasedSize, *, vocab_size: int = VOCAB_SIZE, context_length: int = CONTEXT_LENGTH
) -> ModelConfig:
    """The shape of a size.

    Another vocabulary than the released one gives another number of parameters.
    """
    d_model, n_layers, n_heads = _TABLE_2[name]
    return llama_shape(
        d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        d_ff_multiple_of=256,
        vocab_size=vocab_size,
        context_length=context_length,
    )
