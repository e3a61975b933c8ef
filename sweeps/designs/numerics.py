"""What `precision: auto`, `compile: auto` and the attention kernel mean on a kind of device: the choices that change bits."""

from __future__ import annotations

import math
from typing import NamedTuple

from llama.compilation import COMPILE_FROM_FLOPS
from llama.config import AttentionKernel, Device, DType
from sweeps.designs.spec import SweepSpec

#: A CPU's matrix tiles (Intel AMX) beat float32 from this width on, compiled or not; narrower sizes win only when compiled.
BF16_FROM_WIDTH = 128


class Numerics(NamedTuple):
    """The resolved choices that change bits: part of every run's key."""

    dtype: DType
    compile_from_flops: float
    """Runs whose planned training FLOPs reach it are compiled: 0 is all of them, infinity none."""
    attention_kernel: AttentionKernel


def resolve_numerics(spec: SweepSpec, device: Device, *, has_bf16_tiles: bool) -> Numerics:
    """What `precision: auto`, `compile: auto` and the attention kernel mean on a kind of device.

    One precision serves all sizes, so that none is told from another by its rounding: bfloat16 where it wins at the narrowest,
    as on a CPU with matrix tiles from `BF16_FROM_WIDTH` on.
    """
    dtype = spec.precision
    if dtype == "auto":
        wins = device == "cuda" or (has_bf16_tiles and min(spec.ladder.all_widths) >= BF16_FROM_WIDTH)
        dtype = "bfloat16" if wins else "float32"
    threshold = COMPILE_FROM_FLOPS[device] if spec.compile == "auto" else 0.0 if spec.compile else math.inf
    return Numerics(dtype, threshold, attention_kernel(dtype, device))


def attention_kernel(dtype: str, device: str) -> AttentionKernel:
    """The flash kernel takes float32 on a CPU only; a GPU in float32 computes attention by plain products."""
    return "math" if device == "cuda" and dtype == "float32" else "flash"
