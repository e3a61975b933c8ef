"""How each weight of a LLaMA starts and learns: its initial deviation, its multiples of the recipe's rate, decay and epsilon.

Two parametrizations. The *standard* one draws matrices with variance 1/fan_in, those that write into the residual stream
divided by sqrt(2 L) (Radford et al. 2019), and trains all weights at one rate: the best rate then moves with width and depth.
*CompleteP* (Dey et al. 2025, arXiv 2505.01618, table 1, alpha = 1) scales each weight so that a rate tuned on a small base
shape stays right at another width and depth, m_N and m_L times the base's. At the base itself both are the same.

The paper multiplies each residual branch by 1/m_L and the logits by 1/m_N. The model here has no multipliers, so that it stays
a LLaMA that any reader of LLaMA weights can load: `Scales.folded` moves them into the weights, exactly. What stays outside:

* Clipping by the global norm sees the gradients of the folded weights; under clipping the two forms clip at other norms.
* The paper's attention scores are divided by d_head, LLaMA's by sqrt(d_head). At one head size that is one constant, part of
  what was tuned at the base; so numbers transfer between shapes of one head size, and `llama.recipes.completep` refuses others.
* 1/m_N stands for fan_in everywhere: the feed-forward width must keep its ratio to d_model (up to the ladder's rounding).
"""

from __future__ import annotations

from typing import NamedTuple

from llama.config import ModelConfig, Transfer
from llama.errors import UserError

EMBEDDING_DEVIATION = 0.02


class Scales(NamedTuple):
    """One weight's start and its multiples of the recipe's `peak_lr`, `weight_decay` and `eps`."""

    deviation: float | None
    """Of the normal that it is drawn from, around 0; None for a norm's gain, which starts at 1."""
    rate: float
    decay: float
    epsilon: float

    def folded(self, multiplier: float) -> Scales:
        """The scales of W' = c W for which y = W' x trains as y = c W x did with these.

        W' has gradient g / c where W had g, and Adam's step m / (sqrt(v) + eps) forgets the scale of g if epsilon follows it:
        eps' = eps / c. The step must be c times as long: rate' = c rate. Decoupled decay shrinks by rate * decay, which must
        stay: decay' = decay / c. (The abc-symmetry of Yang & Littwin 2023, arXiv 2308.01814, with decay.)
        """
        assert self.deviation is not None  # gains are multiplied by nothing
        return Scales(
            deviation=multiplier * self.deviation,
            rate=multiplier * self.rate,
            decay=self.decay / multiplier,
            epsilon=self.epsilon / multiplier,
        )


def weight_scales(name: str, model: ModelConfig, transfer: Transfer | None) -> Scales:
    """The scales of the parameter `name` of a `Llama`: standard, or CompleteP's where a base shape is given.

    Norms and the input embedding are not decayed: neither is a product's matrix. A tied head is one, and then both are.

    Raises:
        UserError: CompleteP with a tied head, whose two uses scale apart.
    """
    return _standard(name, model) if transfer is None else _completep(name, model, transfer)


def _standard(name: str, model: ModelConfig) -> Scales:
    if name.endswith("norm.weight"):
        return Scales(deviation=None, rate=1.0, decay=0.0, epsilon=1.0)
    if name == "embedding.weight":
        return Scales(EMBEDDING_DEVIATION, rate=1.0, decay=1.0 if model.tied_head else 0.0, epsilon=1.0)
    depth_scale = (2 * model.n_layers) ** -0.5 if _writes_residual(name) else 1.0
    return Scales(depth_scale * _fan_in(name, model) ** -0.5, rate=1.0, decay=1.0, epsilon=1.0)


def _completep(name: str, model: ModelConfig, transfer: Transfer) -> Scales:
    """Table 1, row by row. Its epsilon is that of the residual blocks, 1/(m_N m_L); outside them gradients shrink with the
    width only, so epsilon does.
    """
    if model.tied_head:
        raise UserError(
            "model.tied_head: true does not go with CompleteP (recipe.transfer), which trains the embedding at one rate "
            "whatever the width and the head at 1/width: untie the head, or take another recipe"
        )
    width, depth = model.d_model / transfer.base_width, model.n_layers / transfer.base_layers
    if name == "embedding.weight":
        return Scales(EMBEDDING_DEVIATION, rate=1.0, decay=0.0, epsilon=1 / width)
    if name == "head.weight":
        return Scales(transfer.base_width**-0.5, rate=1.0, decay=1.0, epsilon=1 / width).folded(1 / width)
    if name.endswith("norm.weight"):
        in_block = name != "norm.weight"
        return Scales(deviation=None, rate=1.0, decay=0.0, epsilon=1 / (width * depth) if in_block else 1 / width)
    base_scale = (2 * transfer.base_layers) ** -0.5 if _writes_residual(name) else 1.0
    hidden = Scales(base_scale * _fan_in(name, model) ** -0.5, rate=1 / width, decay=width, epsilon=1 / (width * depth))
    return hidden.folded(1 / depth) if _writes_residual(name) else hidden


def _writes_residual(name: str) -> bool:
    return name.endswith(("attention.out.weight", "feed_forward.down.weight"))


def _fan_in(name: str, model: ModelConfig) -> int:
    return model.d_ff if name.endswith("feed_forward.down.weight") else model.d_model
