"""A ladder of model shapes from one dial: width in, LLaMA shape out.

The rules, each a function of the width alone:

* heads: as near as the width's divisors allow to 16 wide in tiny ladders (width below 256), 64 below 2,048, and LLaMA's 128
  from there;
* layers: 2 + width // 32 below width 192, so that six tiny sizes span 23k to 400k parameters at a vocabulary of 512; above,
  a power law between published shapes (`DEPTHS`);
* feed-forward width: LLaMA's 2/3 of 4 d, rounded up to a multiple of 16, or of 256 from width 1,024 as the released sizes.
"""

from __future__ import annotations

import math
from itertools import pairwise

from llama.config import ModelConfig, llama_shape

#: (width, layers) that the depth rule passes through: 64 a layer from 512 to 1,024, as GPT-2 small has (Radford et al. 2019),
#: then LLaMA's table 2. Loss is flat around the best ratio of width to depth (Kaplan et al. 2020, figure 5).
DEPTHS = ((192, 8), (512, 8), (768, 12), (1024, 16), (4096, 32), (5120, 40), (6656, 60), (8192, 80))


def heads_for_width(d_model: int) -> int:
    """Number of attention heads.

    Raises:
        ValueError: no head size fits, since rotary embedding needs an even one.
    """
    target = 16 if d_model < 256 else 64 if d_model < 2048 else 128
    sizes = [size for size in range(2, d_model + 1, 2) if d_model % size == 0]
    if not sizes:
        raise ValueError(f"width {d_model} has no even head size: make it even, and best a multiple of {target}")
    return d_model // min(sizes, key=lambda size: (abs(math.log(size / target)), size))


def layers_for_width(d_model: int) -> int:
    """Number of layers, never falling as the width grows."""
    if d_model < DEPTHS[0][0]:
        return 2 + d_model // 32
    for (narrow, shallow), (wide, deep) in pairwise(DEPTHS):
        if d_model <= wide:
            share = math.log(d_model / narrow) / math.log(wide / narrow)
            return round(shallow * math.pow(deep / shallow, share))
    widest, deepest = DEPTHS[-1]
    return round(d_model * deepest / widest)


def model_for_width(d_model: int, *, vocab_size: int, context_length: int) -> ModelConfig:
    """The ladder's LLaMA of a width.

    Raises:
        ValueError: the width has no even head size.
    """
    return llama_shape(
        d_model,
        n_layers=layers_for_width(d_model),
        n_heads=heads_for_width(d_model),
        d_ff_multiple_of=16 if d_model < 1024 else 256,
        vocab_size=vocab_size,
        context_length=context_length,
    )
