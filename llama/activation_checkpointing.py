"""Keep fewer activations for the backward pass and compute the others again, block by block, from outside the model.

* `none` keeps what autograd keeps.
* `selective` keeps a block's input and the outputs of its linear layers and of attention, and recomputes the rest: norms,
  rotations, SwiGLU's products. "We save the activations that are expensive to compute, such as the outputs of linear layers"
  (Touvron et al. 2023, section 2.4). No matrix product is computed twice.
* `full` keeps a block's input alone and repeats its forward pass, all but the last product (Chen et al. 2016): a quarter more
  FLOPs a step, head included, where it was counted (docs/memory.md).

Names in the state dict stay as they are. Comes before compilation: a compiled block then keeps and recomputes the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from llama.config import ActivationCheckpointing
from llama.model import Llama

aten = torch.ops.aten

#: What `selective` keeps: matrix products, and attention by each kernel that stores no scores. The plain kernel (`math`) has no
#: operation of its own, so there attention is recomputed.
KEPT_OPERATIONS = [
    aten.mm.default,
    aten.addmm.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
]


def apply_activation_checkpointing(model: Llama, how: ActivationCheckpointing) -> None:
    """Have each block of a model keep `how` much; gradients are the same bits in eager mode. Apply once, before compiling."""
    if how == "none":
        return
    # Nothing in a block draws random numbers, so there is no generator's state to carry.
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if how == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, KEPT_OPERATIONS)
    for block in model.blocks:
        block.forward = _checkpointed(block.forward, options)


def _checkpointed(forward: Callable[..., Tensor], options: dict[str, Any]) -> Callable[..., Tensor]:
    """A block's forward pass, checkpointed. A function of our own: torch.compile doesn't enter a bare `checkpoint`, and would
    leave the block uncompiled.
    """

    def checkpointed_forward(*inputs: Any) -> Tensor:
        return checkpoint(forward, *inputs, **options)

    return checkpointed_forward
