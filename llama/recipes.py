"""Named, cited rules that turn a planned run (its shape and its tokens) into the optimiser's numbers.

The published rules disagree, so none is hidden behind a default: a sweep names the one it takes, and each rule names the
parameter count that its authors used. What a rule worked out, with what a person set over it, is the run's `Recipe`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from pydantic import Field

from llama.accounting import count_parameters
from llama.config import Config, Fraction, ModelConfig, Positive, PositiveFloat, Recipe

Schedule = Literal["wsd", "cosine"]

#: Haegele et al. 2024 (arXiv 2405.18392): a 1-sqrt cooldown over the last 20 % of the steps matches cosine.
COOLDOWN_FRACTION = 0.2
#: A cooldown of a handful of steps cools nothing; the shortest runs of a sweep get at least this many.
COOLDOWN_MIN_STEPS = 20


class Numbers(NamedTuple):
    """What the rules differ in. All share beta1 0.9, weight decay 0.1 and clipping at 1.0, as LLaMA has them."""

    peak_lr: float
    batch_tokens: float
    warmup_tokens: float
    beta2: float = 0.95
    eps: float = 1e-8


class Rule(NamedTuple):
    """A recipe by name. `numbers(model, tokens, batch_tokens)` takes the planned D and a batch that a person fixed, or None."""

    numbers: Callable[[ModelConfig, int, int | None], Numbers]
    schedule: Schedule
    counting: str
    """What the rule takes as the model's size."""
    source: str


class Overrides(Config):
    """What a person may set over a rule's numbers. None keeps the rule's."""

    peak_lr: PositiveFloat | None = None
    """One learning rate for every size: seldom what a scaling study wants."""
    schedule: Schedule | None = None
    batch_tokens: Positive | None = None
    """Rounded to whole sequences."""
    warmup_tokens: int | None = Field(default=None, ge=0)
    beta1: Fraction | None = None
    beta2: Fraction | None = None
    eps: PositiveFloat | None = None
    weight_decay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    clip_norm: PositiveFloat | None = None
    final_lr_ratio: Fraction | None = None
    cooldown_fraction: Fraction | None = None
    cooldown_min_steps: int | None = Field(default=None, ge=0)
    skip_sigma: PositiveFloat | None = None
    """Leave out updates this many deviations above the recent loss or gradient norm, and those that are not finite."""


def make_recipe(
    name: str, model: ModelConfig, tokens: int, overrides: Overrides | None = None, *, lr_multiplier: float = 1.0
) -> Recipe:
    """The rule `name` of `RULES`, worked out for a model and its planned tokens, with a person's overrides on top.

    `tokens` is the D that the rule is given: a trunk's stated horizon, any other run's own tokens. A batch that is set by
    hand reaches the rule, since warm-up and beta2 may depend on it.
    """
    rule, own = RULES[name], overrides or Overrides()
    numbers = rule.numbers(model, tokens, own.batch_tokens)
    schedule = own.schedule or rule.schedule
    values: dict[str, Any] = {
        "peak_lr": numbers.peak_lr,
        "warmup_tokens": round(numbers.warmup_tokens),
        "beta1": 0.9,
        "beta2": numbers.beta2,
        "eps": numbers.eps,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "final_lr_ratio": 0.0 if schedule == "wsd" else 0.1,  # 1-sqrt ends at 0; LLaMA's cosine at 10 % of the peak
        "cooldown_fraction": COOLDOWN_FRACTION if schedule == "wsd" else 0.0,
        "cooldown_min_steps": COOLDOWN_MIN_STEPS if schedule == "wsd" else 0,
        "transfer": None,
        "skip_sigma": None,
    }
    values |= own.model_dump(include=set(values), exclude_none=True)
    values["peak_lr"] = _six_digits(values["peak_lr"] * lr_multiplier)
    batch_sequences = max(1, round((own.batch_tokens or numbers.batch_tokens) / model.context_length))
    return Recipe(name=name, schedule=schedule, batch_sequences=batch_sequences, reference_tokens=tokens, **values)


def _inverse_width(model: ModelConfig, tokens: int, batch_tokens: int | None) -> Numbers:
    """LR as 1/width, the scaling of muP's hidden matrices under Adam (Yang et al. 2022, table 8), anchored on this
    project's CPU pilot: 1.6e-2 at width 16, 8e-3 at 32, 4e-3 at 64 were best (vocabulary 512, context 128, batches of
    1,024 tokens). Warm-up is 20 steps, the memory 1/(1 - beta2) of Adam's second moment (Ma & Yarats 2021): longer would
    eat the small budgets.
    """
    batch = batch_tokens or 1024
    return Numbers(peak_lr=0.256 / model.d_model, batch_tokens=batch, warmup_tokens=20 * batch)


def _width_and_horizon(model: ModelConfig, tokens: int, batch_tokens: int | None) -> Numbers:
    """lr = 6e-3 (width / 32)^-0.7 (D / 5e5)^-0.3 at batches of 512 tokens: what `docs/studies/learning-rate.md` measured for
    models of 20 thousand to 400 thousand parameters. The best rate falls as the horizon grows, by about D^-0.32 in Bjorck et
    al. 2024 (arXiv 2409.19913), so a rate by width alone is too high for a small model trained long. Small batches, since a
    large model on few tokens needs steps more than it needs smooth gradients. Warm-up is 40 steps, twice 1/(1 - beta2).
    """
    batch = batch_tokens or 512
    lr = 6e-3 * (model.d_model / 32) ** -0.7 * (tokens / 5e5) ** -0.3
    return Numbers(peak_lr=lr, batch_tokens=batch, warmup_tokens=40 * batch)


def _llama(model: ModelConfig, tokens: int, batch_tokens: int | None) -> Numbers:
    """Touvron et al. 2023, table 2 and section 2.3. Sizes between 13.0B and 32.5B split at their geometric mean; the
    paper says nothing below 6.7B, where 3e-4 is low.
    """
    batch = batch_tokens or 2**22
    large = count_parameters(model).n_params > 20.6e9
    return Numbers(peak_lr=1.5e-4 if large else 3e-4, batch_tokens=batch, warmup_tokens=2000 * batch)


def _step_law(model: ModelConfig, tokens: int, batch_tokens: int | None) -> Numbers:
    """Li et al. 2025 (arXiv 2503.04715), eq. 1: lr = 1.797 N^-0.713 D^0.3075, batch = 0.581 D^0.571 tokens; their runs
    warm up over 2,000 steps, which is capped here at a tenth of D.
    """
    n, batch = count_parameters(model).n_params_non_embedding, batch_tokens or 0.581 * tokens**0.571
    return Numbers(
        1.797 * n**-0.713 * tokens**0.3075, batch_tokens=batch, warmup_tokens=min(2000 * batch, 0.1 * tokens)
    )


def _deepseek(model: ModelConfig, tokens: int, batch_tokens: int | None) -> Numbers:
    """Bi et al. 2024 (arXiv 2401.02954), eq. 1: lr = 0.3118 C^-0.125, batch = 0.2920 C^0.3271 tokens, C = M D with M the
    non-embedding training FLOPs a token, 72 L d^2 + 12 L d T for their shapes (eq. 2). Their 2,000 steps of warm-up are
    capped at a tenth of D.
    """
    counts = count_parameters(model)
    matrices = counts.n_params_matmul - model.vocab_size * model.d_model
    compute = (6 * matrices + 12 * model.n_layers * model.d_model * model.context_length) * tokens
    batch = batch_tokens or 0.2920 * compute**0.3271
    return Numbers(0.3118 * compute**-0.125, batch_tokens=batch, warmup_tokens=min(2000 * batch, 0.1 * tokens))


def _porian(model: ModelConfig, tokens: int, batch_tokens: int | None) -> Numbers:
    """Porian et al. 2024 (arXiv 2406.19146) as OLMo-core's WSD ladder takes it, with the learning rate halved: batch =
    327,680 (N/108e6)^(2/3) tokens, lr = 0.00235 (N/108e6)^(-1/3), warm-up over N tokens, beta2 0.99 for batches below
    524,288 tokens.
    """
    n = count_parameters(model).n_params_non_embedding
    batch = batch_tokens or 327_680 * (n / 108e6) ** (2 / 3)
    return Numbers(
        peak_lr=0.5 * 0.0047 * (n / 108e6) ** (-1 / 3),
        batch_tokens=batch,
        warmup_tokens=n,
        beta2=0.95 if batch >= 524_288 else 0.99,
    )


RULES: dict[str, Rule] = {
    "width_and_horizon": Rule(_width_and_horizon, "wsd", "width", "docs/studies/learning-rate.md; Bjorck et al. 2024"),
    "inverse_width": Rule(_inverse_width, "wsd", "width", "this project's CPU pilot; muP, Yang et al. 2022"),
    "llama": Rule(_llama, "cosine", "n_params", "Touvron et al. 2023"),
    "step_law": Rule(_step_law, "cosine", "n_params_non_embedding", "Li et al. 2025"),
    "deepseek": Rule(_deepseek, "wsd", "non-embedding training FLOPs a token", "Bi et al. 2024"),
    "porian": Rule(_porian, "wsd", "n_params_non_embedding", "Porian et al. 2024; OLMo-core"),
}


def _six_digits(value: float) -> float:
    """Powers may differ in the last bit between machines, and a run's key must not."""
    return float(f"{value:.6g}")
