"""AdamW with decay on the matrices of products only, and one training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llama.config import Recipe
from llama.model import Llama


def make_optimizer(model: Llama, recipe: Recipe) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter 2019). Norms and the input embedding are not decayed: neither is a product's matrix."""
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and (name != "embedding.weight" or model.config.tied_head)
        (decayed if is_matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True)


def training_step(
    model: Llama, optimizer: torch.optim.AdamW, tokens_BS: Tensor, *, learning_rate: float, clip_norm: float
) -> tuple[Tensor, Tensor]:
    """One update on a batch of sequences, each one token longer than the context (inputs and targets overlap).

    Returns the mean loss in nats and the gradient norm before clipping, both left on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    loss = model.loss(tokens_BS[:, :-1], tokens_BS[:, 1:])
    loss.backward()
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach(), grad_norm
