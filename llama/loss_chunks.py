"""How many tokens' logits the loss holds at once. No torch: plans ask too."""

from __future__ import annotations

from llama.config import Device

#: Logits held at once. On a CPU a chunk stays in the second-level cache (2 MiB in float32); a GPU needs wide products, and
#: its figure was not measured.
LOGITS_AT_ONCE: dict[Device, int] = {"cpu": 2**19, "cuda": 2**26}

#: Tokens below which the head's gradient is read and written more than it is computed.
MIN_CHUNK_TOKENS: dict[Device, int] = {"cpu": 128, "cuda": 1024}


def loss_chunk_tokens(vocab_size: int, device: Device) -> int:
    """Tokens of a chunk: those of `LOGITS_AT_ONCE`, and never fewer than `MIN_CHUNK_TOKENS`."""
    return max(LOGITS_AT_ONCE[device] // vocab_size, MIN_CHUNK_TOKENS[device])
