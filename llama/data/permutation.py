"""Random permutations of 0..n-1 that are computed, not stored: any element in O(1) memory, the same everywhere.

A balanced Feistel network permutes 0..4^h-1 for the smallest 4^h >= n, and what lands outside 0..n-1 is walked along its
cycle until it is inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): at most 4 steps are expected.
The hash is SplitMix64's finaliser (Steele et al. 2014), so nothing here depends on NumPy's generators or version.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MASK_64 = (1 << 64) - 1
_MULTIPLIER_1, _MULTIPLIER_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_GOLDEN = 0x9E3779B97F4A7C15


def derive_key(*parts: int) -> int:
    """A 64-bit key from integers; each order and each number of parts gives another."""
    key = len(parts)
    for part in parts:
        key = _mix((key + _GOLDEN) & _MASK_64 ^ _mix(part & _MASK_64))
    return key


def permute(indices: NDArray[np.integer], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where the permutation of `range(size)` under each key takes each index.

    Args:
        indices: `[n]`, each in 0..size-1.
        keys: `[n]`, or `[1]` for one permutation of all.
    """
    half_bits = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half_bits)) - 1)
    round_keys = [mix_array(keys + np.uint64((_GOLDEN * (number + 1)) & _MASK_64)) for number in range(_ROUNDS)]

    def encrypt(values: NDArray[np.uint64], select: NDArray[np.intp] | slice) -> NDArray[np.uint64]:
        left, right = values >> half_bits, values & mask
        for key in round_keys:
            chosen = key if len(key) == 1 else key[select]
            left, right = right, left ^ (mix_array(right + chosen) & mask)
        return (left << half_bits) | right

    result = encrypt(indices.astype(np.uint64), slice(None))
    while (outside := np.flatnonzero(result >= np.uint64(size))).size:
        result[outside] = encrypt(result[outside], outside)
    return result.astype(np.int64)


def shuffle_order(size: int, key: int) -> NDArray[np.intp]:
    """`range(size)` in random order, by sorting hashes: faster than `permute` where all elements are wanted."""
    hashes = mix_array(np.arange(size, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key))
    return np.argsort(hashes, kind="stable")


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * _MULTIPLIER_1) & _MASK_64
    value = ((value ^ (value >> 27)) * _MULTIPLIER_2) & _MASK_64
    return value ^ (value >> 31)


def mix_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`_mix` of each element; unsigned products wrap modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MULTIPLIER_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MULTIPLIER_2)
    return values ^ (values >> np.uint64(31))
