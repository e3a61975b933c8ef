"""What batches and plans count by: sequences of each domain in a block of a run's, and windows in a stream."""

from __future__ import annotations

from collections.abc import Mapping

from llama.errors import UserError

BLOCK_SEQUENCES = 1024


def block_quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Sequences of each domain in a block of 1,024: the weights' shares by largest remainder, ties by name.

    Raises:
        UserError: a weight is not positive, or so small that its domain would never be seen.
    """
    names = sorted(weights)
    total = sum(weights[name] for name in names)
    if not names or min(weights.values()) <= 0:
        raise UserError(f"domain weights must be positive, and there must be one; they are {dict(weights)}")
    exact = {name: BLOCK_SEQUENCES * weights[name] / total for name in names}
    quotas = {name: int(exact[name]) for name in names}
    by_remainder = sorted(names, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[: BLOCK_SEQUENCES - sum(quotas.values())]:
        quotas[name] += 1
    for name, quota in quotas.items():
        if quota == 0:
            raise UserError(
                f"domain {name!r} has {weights[name] / total:.2g} of the weight: less than one of {BLOCK_SEQUENCES:,} "
                f"sequences, so it would never be seen; raise its weight or leave it out"
            )
    return quotas


def window_count(domain: str, tokens: int, context_length: int, *, kind: str = "training") -> int:
    """Windows of `context_length + 1` tokens at stride `context_length` in a stream of `tokens`.

    Raises:
        UserError: there is none.
    """
    windows = (tokens - 1) // context_length
    if windows < 1:
        raise UserError(
            f"domain {domain!r} has {tokens:,} {kind} tokens, fewer than one sequence of context_length {context_length:,} "
            f"and the token after it; give it more text or shorten the context"
        )
    return windows
