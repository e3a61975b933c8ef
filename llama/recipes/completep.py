"""CompleteP: numbers tuned on one small shape, carried to any width and depth (Dey et al. 2025)."""

from __future__ import annotations

from llama.config import ModelConfig, Transfer
from llama.errors import UserError
from llama.recipes.rule import Numbers, Overrides, Rule, whole_sequences

#: The shape whose rate `docs/studies/learning-rate.md` measured: the ladder's at width 32.
MEASURED_BASE = Transfer(base_width=32, base_layers=3)
MEASURED_D_HEAD = 16
BASE_FIELDS = ("base_width", "base_layers", "base_d_head")


def numbers(model: ModelConfig, tokens: int, own: Overrides) -> Numbers:
    """Dey et al. 2025 (arXiv 2505.01618), table 1 with alpha = 1: `peak_lr`, `weight_decay` and `eps` are those of the base
    shape, and `llama.parametrization` scales them for each weight. Unless another base is given it is width 32 with 3 layers
    at lr = 6e-3 (D / 5e5)^-0.3 and batches of 512 tokens, measured in docs/studies/learning-rate.md. CompleteP says nothing of
    D: the fall with the horizon is `width_and_horizon`'s.

    Raises:
        UserError: a tied head, or heads of another size than the base's.
    """
    base, d_head = _base(own)
    if model.tied_head:
        raise UserError(
            "recipe.name: completep does not go with tied_head: true; untie the head, or take another recipe"
        )
    if model.d_head != d_head:
        raise UserError(
            f"recipe.name: completep carries numbers between shapes of one head size; its base has heads of {d_head}, width "
            f"{model.d_model} has {model.n_heads} heads of {model.d_head}: give ladder.shapes with n_heads = d_model / {d_head}"
        )
    batch = whole_sequences(own.batch_tokens or 512, model)
    return Numbers(6e-3 * (tokens / 5e5) ** -0.3, batch_tokens=batch, warmup_tokens=40 * batch, transfer=base)


def problems(own: Overrides) -> list[tuple[str, str]]:
    """A base of one's own is given whole, with the rate that was tuned there."""
    if not any(getattr(own, field) is not None for field in BASE_FIELDS):
        return []
    missing = [field for field in (*BASE_FIELDS, "peak_lr") if getattr(own, field) is None]
    if not missing:
        return []
    return [
        ("name", f"completep with a base shape of your own needs {', '.join(missing)} too, as they were tuned there")
    ]


def _base(own: Overrides) -> tuple[Transfer, int]:
    """The base shape and its head size."""
    if own.base_width is None or own.base_layers is None or own.base_d_head is None:
        return MEASURED_BASE, MEASURED_D_HEAD
    return Transfer(base_width=own.base_width, base_layers=own.base_layers), own.base_d_head


RULE = Rule(
    numbers,
    "wsd",
    BASE_FIELDS,
    problems,
)
