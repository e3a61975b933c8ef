"""AdamW by groups of weights that scale alike."""

from __future__ import annotations

import torch
from torch import nn

from llama.config import Recipe
from llama.model import Llama
from llama.parametrization import weight_scales


def make_optimizer(model: Llama, recipe: Recipe) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov & Hutter 2019), one group for all weights of equal scales (`llama.parametrization`). A group's
    `rate` multiplies the learning rate of the step.
    """
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scales = weight_scales(name, model.config, recipe.transfer)
        groups.setdefault((scales.rate, scales.decay, scales.epsilon), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "rate": rate,
                "lr": rate * recipe.peak_lr,
                "weight_decay": decay * recipe.weight_decay,
                "eps": epsilon * recipe.eps,
            }
            for (rate, decay, epsilon), parameters in groups.items()
        ],
        betas=(recipe.beta1, recipe.beta2),
        fused=True,
    )
