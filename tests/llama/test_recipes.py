"""The rules give the numbers that their sources print, and overrides reach what depends on them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama.config import ModelConfig
from llama.recipes import RULES, Overrides, make_recipe
from sweeps.ladder import model_for_width


def tiny(width: int) -> ModelConfig:
    return model_for_width(width, vocab_size=512, context_length=128)


def big(width: int, context_length: int = 2048) -> ModelConfig:
    return model_for_width(width, vocab_size=32_000, context_length=context_length)


@pytest.mark.parametrize(("width", "lr"), [(16, 1.6e-2), (32, 8e-3), (64, 4e-3)])
def test_inverse_width_is_the_pilots_best(width, lr):
    recipe = make_recipe("inverse_width", tiny(width), 524_288)
    assert recipe.peak_lr == lr
    assert recipe.batch_sequences * 128 == 1024
    assert (recipe.beta1, recipe.beta2, recipe.weight_decay, recipe.clip_norm) == (0.9, 0.95, 0.1, 1.0)
    assert (recipe.schedule, recipe.cooldown_fraction, recipe.final_lr_ratio) == ("wsd", 0.2, 0.0)
    assert recipe.warmup_tokens < 0.05 * 524_288


@pytest.mark.parametrize(("width", "lr"), [(4096, 3e-4), (5120, 3e-4), (6656, 1.5e-4), (8192, 1.5e-4)])
def test_llama_is_its_table(width, lr):
    recipe = make_recipe("llama", big(width), 10**12)
    assert recipe.peak_lr == lr
    assert recipe.batch_sequences == 2048
    assert recipe.warmup_tokens == 2000 * 2048 * 2048
    assert (recipe.schedule, recipe.final_lr_ratio) == ("cosine", 0.1)


def test_step_law_at_a_billion_parameters():
    """Worked by hand: N 1.28e9 non-embedding, D 1e11: 1.797 N^-0.713 D^0.3075 and 0.581 D^0.571."""
    model = big(2048)
    n = model.n_layers * (4 * 2048**2 + 3 * 2048 * model.d_ff + 2 * 2048) + 2048
    recipe = make_recipe("step_law", model, 10**11)
    assert recipe.peak_lr == pytest.approx(1.797 * n**-0.713 * 10 ** (11 * 0.3075), rel=1e-5)
    assert recipe.batch_sequences == round(0.581 * 10 ** (11 * 0.571) / 2048)


def test_deepseek_takes_non_embedding_flops():
    """At C = 1e20 the printed rule gives 0.3118e-2.5 and 0.2920 * 1e20^0.3271 tokens."""
    model = big(1024)
    flops_per_token = 6 * model.n_layers * (4 * 1024**2 + 3 * 1024 * model.d_ff) + 12 * model.n_layers * 1024 * 2048
    recipe = make_recipe("deepseek", model, round(1e20 / flops_per_token))
    assert recipe.peak_lr == pytest.approx(0.3118 * 10**-2.5, rel=1e-5)
    assert recipe.batch_sequences == round(0.2920 * 10 ** (20 * 0.3271) / 2048)


def test_porian_warms_up_over_n_tokens_and_raises_beta2_for_small_batches():
    model = big(768)
    n = 84_953_856
    recipe = make_recipe("porian", model, 10**10)
    assert recipe.warmup_tokens == n
    assert recipe.peak_lr == pytest.approx(0.00235 * (n / 108e6) ** (-1 / 3), rel=1e-5)
    assert recipe.batch_sequences == round(327_680 * (n / 108e6) ** (2 / 3) / 2048)
    assert recipe.beta2 == 0.99
    assert make_recipe("porian", model, 10**10, Overrides(batch_tokens=524_288)).beta2 == 0.95


def test_a_batch_set_by_hand_reaches_the_warm_up():
    recipe = make_recipe("llama", big(4096), 10**12, Overrides(batch_tokens=2**20))
    assert recipe.batch_sequences == 512
    assert recipe.warmup_tokens == 2000 * 2**20


def test_another_schedule_takes_its_own_ending():
    assert make_recipe("llama", big(4096), 10**12, Overrides(schedule="wsd")).final_lr_ratio == 0.0
    assert make_recipe("inverse_width", tiny(16), 10**6, Overrides(schedule="cosine")).final_lr_ratio == 0.1
    kept = Overrides(schedule="cosine", final_lr_ratio=0.05)
    assert make_recipe("inverse_width", tiny(16), 10**6, kept).final_lr_ratio == 0.05


def test_overrides_win_and_multipliers_multiply():
    own = Overrides(peak_lr=0.5, beta1=0.8, weight_decay=0.0, warmup_tokens=0, cooldown_min_steps=3)
    recipe = make_recipe("inverse_width", tiny(16), 10**6, own, lr_multiplier=0.25)
    assert (recipe.peak_lr, recipe.beta1, recipe.weight_decay) == (0.125, 0.8, 0.0)
    assert (recipe.warmup_tokens, recipe.cooldown_min_steps) == (0, 3)


@given(st.sampled_from(sorted(RULES)), st.integers(1, 128).map(lambda half: 2 * half), st.integers(10**4, 10**13))
@settings(max_examples=100)
def test_every_rule_gives_a_valid_recipe_with_short_numbers(name, width, tokens):
    recipe = make_recipe(name, tiny(width), tokens)
    assert recipe.name == name
    assert recipe.reference_tokens == tokens
    assert recipe.batch_sequences >= 1
    assert float(f"{recipe.peak_lr:.6g}") == recipe.peak_lr
