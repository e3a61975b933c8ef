"""The rules give the numbers that their sources print, and overrides reach what depends on them."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama.accounting import count_parameters, training_flops_per_token
from llama.config import ModelConfig, Transfer
from llama.errors import UserError
from llama.recipes import RULES, Overrides, make_recipe
from llama.recipes.completep import MEASURED_BASE, MEASURED_D_HEAD
from llama.recipes.tuned_law import TunedLaw
from sweeps.designs.ladder import model_for_width
from sweeps.designs.spec import RecipeSpec
from sweeps.hardware.calibration import Calibration
from sweeps.yaml_lines import parse_record
from tests.sweeps.examples import design, plan_on_cpus, sweep


def tiny(width: int) -> ModelConfig:
    return model_for_width(width, vocab_size=512, context_length=128)


def big(width: int, context_length: int = 2048) -> ModelConfig:
    return model_for_width(width, vocab_size=32_000, context_length=context_length)


def shape(
    d_model: int, n_layers: int, d_ff: int, *, vocab_size: int = 65_536, context: int = 2048, d_head: int = 64
) -> ModelConfig:
    heads = d_model // d_head
    return ModelConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=heads,
        n_kv_heads=heads,
        d_ff=d_ff,
        context_length=context,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tied_head=False,
    )


LAW: dict[str, Any] = {
    "study": "docs/studies/learning-rate.md",
    "date": "2026-01-31",
    "objective": "val/loss",
    "counting": "n_params",
    "n": {"low": 20_000, "high": 500_000},
    "d": {"low": 200_000, "high": 5_000_000},
    "peak_lr": {"at_middle": 4e-3, "n_exponent": -0.35, "d_exponent": -0.3},
    "batch_tokens": {"at_middle": 1024.0, "n_exponent": 0.0, "d_exponent": 0.5},
    "warmup_steps": 40,
}


def tuned(**changes: Any) -> Overrides:
    return Overrides(tuned=TunedLaw.model_validate(LAW | changes))


def inputs(name: str) -> Overrides:
    """What a rule cannot do without."""
    return tuned() if name == "tuned" else Overrides()


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


@pytest.mark.parametrize(
    ("model", "tokens", "best_lr", "best_batch"),
    [
        (shape(2048, 16, 8192), 56_900_000_000, 1.381e-3, 256),
        (shape(1280, 10, 9472), 40_000_000_000, 2.76e-3, 256),
        (shape(1280, 13, 9048), 50_000_000_000, 2.76e-3, 352),
    ],
)
def test_step_law_lands_beside_its_authors_best_runs(model, tokens, best_lr, best_batch):
    """The best of their released runs at three (N, D) cells (github.com/step-law/steplaw, data/dense_lr_bs_loss.csv): the rule
    is within one step of their grid in the rate, sqrt(2), and within a step of 1.6 in the batch."""
    recipe = make_recipe("step_law", model, tokens)
    assert recipe.peak_lr / best_lr == pytest.approx(1, rel=0.3)
    assert 1 / 1.6 < recipe.batch_sequences / best_batch < 1.6


def test_step_law_counts_neither_embedding_nor_head():
    """At N 1,073,807,360 (their 1,073,741,824 and our norms' 67,584), D 1e11: 1.797 N^-0.713 D^0.3075 = 1.5773e-3 and 0.581
    D^0.571 = 1,109,283 tokens."""
    recipe = make_recipe("step_law", shape(2048, 16, 8192), 10**11)
    assert recipe.peak_lr == pytest.approx(1.5773e-3, rel=1e-3)
    assert recipe.batch_sequences == round(1_109_283 / 2048)
    assert make_recipe("step_law", shape(2048, 16, 8192, vocab_size=1000), 10**11).peak_lr == recipe.peak_lr


@pytest.mark.parametrize(
    ("model", "lr", "batch", "batch_tolerance"),
    [
        (shape(4096, 30, 11_008, vocab_size=102_400, context=4096, d_head=128), 4.2e-4, 2304, 0.03),
        (shape(8192, 95, 22_016, vocab_size=102_400, context=4096, d_head=128), 3.2e-4, 4608, 0.1),
    ],
)
def test_deepseek_is_its_table_of_released_models(model, lr, batch, batch_tolerance):
    """Table 2: 7B and 67B at 2T tokens took 4.2e-4 and 3.2e-4, 2,304 and 4,608 sequences of 4,096: the rule, rounded."""
    recipe = make_recipe("deepseek", model, 2 * 10**12)
    assert recipe.peak_lr == pytest.approx(lr, rel=0.03)
    assert recipe.batch_sequences == pytest.approx(batch, rel=batch_tolerance)


def test_deepseek_takes_non_embedding_flops():
    """At C = 1e20 the printed rule gives 0.3118e-2.5 and 0.2920 * 1e20^0.3271 tokens."""
    model = big(1024)
    flops_per_token = 6 * model.n_layers * (4 * 1024**2 + 3 * 1024 * model.d_ff) + 12 * model.n_layers * 1024 * 2048
    recipe = make_recipe("deepseek", model, round(1e20 / flops_per_token))
    assert recipe.peak_lr == pytest.approx(0.3118 * 10**-2.5, rel=1e-5)
    assert recipe.batch_sequences == round(0.2920 * 10 ** (20 * 0.3271) / 2048)


def test_porian_counts_the_head():
    """Their 108M model is 15 layers of width 640 with a vocabulary of 50,432: 108.46M with the head, 76.2M without. There the
    rule is 160 sequences of 2,048 and, halved by OLMo-core, 2.35e-3; warm-up is over N tokens."""
    recipe = make_recipe("porian", shape(640, 15, 1792, vocab_size=50_432), 10**10)
    assert recipe.warmup_tokens == 108_462_080
    assert recipe.batch_sequences == 160
    assert recipe.peak_lr == pytest.approx(0.5 * 0.0047, rel=2e-3)


def test_porian_raises_beta2_for_small_batches():
    model = big(768)
    assert make_recipe("porian", model, 10**10).beta2 == 0.99
    assert make_recipe("porian", model, 10**10, Overrides(batch_tokens=524_288 - 2048)).beta2 == 0.99
    assert make_recipe("porian", model, 10**10, Overrides(batch_tokens=524_288)).beta2 == 0.95


def test_completep_at_its_measured_base_is_the_measured_rule():
    base = tiny(32)
    assert (base.d_model, base.n_layers, base.d_head) == (
        MEASURED_BASE.base_width,
        MEASURED_BASE.base_layers,
        MEASURED_D_HEAD,
    )
    for tokens in (200_000, 500_000, 3_000_000):
        carried, measured = make_recipe("completep", base, tokens), make_recipe("width_and_horizon", base, tokens)
        assert carried.model_copy(update={"name": measured.name, "transfer": None}) == measured
        assert carried.transfer == MEASURED_BASE
        assert make_recipe("completep", tiny(128), tokens).peak_lr == carried.peak_lr


def test_completep_takes_another_base_whole():
    own = Overrides(base_width=256, base_layers=4, base_d_head=64, peak_lr=2e-3)
    recipe = make_recipe("completep", shape(1024, 16, 2736), 10**9, own)
    assert recipe.transfer == Transfer(base_width=256, base_layers=4)
    assert recipe.peak_lr == 2e-3
    with pytest.raises(UserError, match=r"recipe\.name: .* needs base_d_head, peak_lr too"):
        make_recipe("completep", tiny(64), 10**9, Overrides(base_width=256, base_layers=4))


def test_completep_refuses_what_it_cannot_carry():
    with pytest.raises(UserError, match=r"heads of 16.*heads of 64"):
        make_recipe("completep", big(256), 10**9)
    with pytest.raises(UserError, match="tied_head"):
        make_recipe("completep", tiny(64).model_copy(update={"tied_head": True}), 10**9)


def test_tuned_is_its_law():
    """At the middles, 1e5 parameters and 1e6 tokens, each law is its own number; away from them the exponents say."""
    model = tiny(48)
    n = count_parameters(model).n_params
    for tokens in (1_000_000, 4_000_000):
        recipe = make_recipe("tuned", model, tokens, tuned())
        assert recipe.peak_lr == pytest.approx(4e-3 * (n / 1e5) ** -0.35 * (tokens / 1e6) ** -0.3, rel=1e-5)
        assert recipe.batch_sequences * 128 == 1024 * math.sqrt(tokens / 1e6)
        assert recipe.warmup_tokens == 40 * recipe.batch_sequences * 128
    other = make_recipe("tuned", model, 1_000_000, tuned(counting="n_params_non_embedding"))
    assert (
        other.peak_lr > make_recipe("tuned", model, 1_000_000, tuned()).peak_lr
    )  # fewer are counted, and the rate falls with N


def test_inputs_go_with_their_rule():
    with pytest.raises(UserError, match=r"recipe\.name: .*the block tuned, .* is missing"):
        make_recipe("tuned", tiny(16), 10**6)
    with pytest.raises(UserError, match=r"recipe\.tuned: recipe llama takes none; it goes with tuned"):
        make_recipe("llama", tiny(16), 10**6, tuned())
    with pytest.raises(UserError, match=r"recipe\.base_width: recipe step_law takes none; it goes with completep"):
        make_recipe("step_law", tiny(16), 10**6, Overrides(base_width=32))


@pytest.mark.parametrize("name", ["step_law", "deepseek", "porian", "width_and_horizon", "completep", "tuned"])
def test_rules_see_the_runs_own_tokens_along_an_isoflop_slice(name):
    """At one compute budget a larger model trains on fewer tokens; a rule that is fed another run's moves batch or rate the
    wrong way along the slice."""
    widths = [16, 32, 64, 128]
    models = [tiny(width) for width in widths]
    tokens = [round(1e12 / training_flops_per_token(model)) for model in models]
    recipes = [make_recipe(name, model, d, inputs(name)) for model, d in zip(models, tokens, strict=True)]
    rates, batches = [recipe.peak_lr for recipe in recipes], [recipe.batch_sequences for recipe in recipes]
    assert tokens == sorted(tokens, reverse=True)
    assert [recipe.reference_tokens for recipe in recipes] == tokens
    if name in ("step_law", "tuned"):  # batch by D alone
        assert batches == sorted(batches, reverse=True)
        assert batches[0] > 2 * batches[-1]
    if name == "step_law":  # both factors pull the rate down as N grows and D falls
        ratio = (tokens[-1] / tokens[0]) ** 0.3075
        n = [count_parameters(model).n_params_non_embedding for model in models]
        assert rates[-1] / rates[0] == pytest.approx(ratio * (n[-1] / n[0]) ** -0.713, rel=1e-4)
    if name == "completep":  # the base's rate rises as the horizon shrinks, and nothing else moves it
        assert rates == sorted(rates)
        assert rates[-1] / rates[0] == pytest.approx((tokens[-1] / tokens[0]) ** -0.3, rel=1e-4)
    if name == "porian":  # by N alone
        assert batches == sorted(batches)
        assert rates == sorted(rates, reverse=True)


def test_a_designed_slice_feeds_each_size_its_own_tokens():
    """The same through a sweep: cosine runs take their own D, trunks the D that the reference budget buys their size."""
    widths = [16, 32, 64]
    alone = design(ladder__widths=widths, budgets__flops=[1e12], recipe={"name": "step_law"})
    configs = [run.config for run in alone.runs]
    assert [config.model.d_model for config in configs] == widths
    for config in configs:
        bought = round(1e12 / training_flops_per_token(config.model))
        assert config.recipe.reference_tokens == bought
        assert config.tokens == pytest.approx(bought, rel=0.02)
        assert config.recipe == make_recipe("step_law", config.model, bought)
    batches = [config.recipe.batch_sequences for config in configs]
    assert batches[0] > batches[1] > batches[2]

    wsd = {"name": "completep", "reference_budget": 1e12}
    trunks = design(ladder__widths=widths, budgets__flops=[5e11, 2e12], recipe=wsd)
    for run in trunks.runs:
        bought = round(1e12 / training_flops_per_token(run.config.model))
        assert run.config.recipe == make_recipe("completep", run.config.model, bought).model_copy(
            update={"cooldown_fraction": 0.0, "cooldown_min_steps": 0} if run.config.is_trunk else {}
        )


def test_a_sweep_holds_the_law_that_was_tuned():
    """Its own numbers are in the spec's digest, and a mistake is named at its key."""
    recipe = {"name": "tuned", "tuned": LAW}
    one, other = sweep(recipe=recipe), sweep(recipe=recipe | {"tuned": LAW | {"warmup_steps": 41}})
    assert one.digest != other.digest
    run = design(recipe=recipe | {"reference_budget": 2e11}).runs[0].config
    bought = round(2e11 / training_flops_per_token(run.model))
    assert run.recipe.peak_lr == make_recipe("tuned", run.model, bought, tuned()).peak_lr

    def refusal(text: str) -> str:
        with pytest.raises(UserError) as error:
            parse_record(text, RecipeSpec, source="my.yaml")
        return str(error.value)

    law = json.dumps(LAW)
    assert "my.yaml, line 1: tuned: recipe llama takes none; it goes with tuned" in refusal(
        f"{{name: llama, tuned: {law}}}"
    )
    assert "line 1: name: tuned follows the law that a tuning study found" in refusal("name: tuned")
    assert "tuned.date: found 'May'; a date such as 2026-01-31 is right" in refusal(
        f"name: tuned\ntuned: {json.dumps(LAW | {'date': 'May'})}"
    )
    assert "line 2: tuned.n: low 9 is above high 8" in refusal(
        f"name: tuned\ntuned: {json.dumps(LAW | {'n': {'low': 9, 'high': 8}})}"
    )
    assert "this key is missing" in refusal(
        f"name: tuned\ntuned: {json.dumps({k: LAW[k] for k in LAW if k != 'study'})}"
    )
    assert "name: completep with a base shape of your own needs peak_lr too" in refusal(
        "{name: completep, base_width: 64, base_layers: 4, base_d_head: 16}"
    )


def test_a_batch_set_by_hand_reaches_the_warm_up():
    recipe = make_recipe("llama", big(4096), 10**12, Overrides(batch_tokens=2**20))
    assert recipe.batch_sequences == 512
    assert recipe.warmup_tokens == 2000 * 2**20


@pytest.mark.parametrize("batch", [2**9, 2**15, 2**19, 2**22])
def test_beta2_by_batch_forgets_half_in_as_many_tokens(batch):
    """Marek et al. 2025: beta2' = beta2^(B'/B). A batch of 0.5M tokens at 0.95 has a half-life of 7.08M tokens."""
    own = Overrides(batch_tokens=batch, beta2_half_life_tokens=7_084_917)
    recipe = make_recipe("llama", big(4096, context_length=512), 10**12, own)
    assert recipe.beta2 == pytest.approx(0.95 ** (batch / 2**19), rel=1e-6)
    assert recipe.beta2 ** (7_084_917 / batch) == pytest.approx(0.5, rel=1e-5)


def test_beta2_is_set_once():
    with pytest.raises(ValueError, match="give one of them"):
        Overrides(beta2=0.9, beta2_half_life_tokens=10**6)


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


@given(st.sampled_from(sorted(RULES)), st.integers(1, 8).map(lambda heads: 16 * heads), st.integers(10**4, 10**13))
@settings(max_examples=100)
def test_every_rule_gives_a_valid_recipe_with_short_numbers(name, width, tokens):
    recipe = make_recipe(name, tiny(width), tokens, inputs(name))
    assert recipe.name == name
    assert recipe.reference_tokens == tokens
    assert recipe.batch_sequences >= 1
    assert float(f"{recipe.peak_lr:.6g}") == recipe.peak_lr


@given(st.integers(1, 2**22), st.integers(1, 10**12))
@settings(max_examples=100)
def test_any_half_life_gives_a_beta2(batch, half_life):
    recipe = make_recipe(
        "inverse_width", tiny(16), 10**6, Overrides(batch_tokens=batch, beta2_half_life_tokens=half_life)
    )
    assert 0 <= recipe.beta2 < 1


def test_a_plan_warns_where_a_tuned_law_is_carried_far():
    def warnings(**changes: Any) -> list[str]:
        found = design(recipe={"name": "tuned", "reference_budget": 2e11, "tuned": LAW | changes})
        plan = plan_on_cpus(found, Calibration(points=()))
        return [warning.message for warning in plan.warnings if warning.code == "tuned"]

    assert warnings() == []
    (message,) = warnings(n={"low": 400_000, "high": 2_000_000})
    assert "400,000 to 2,000,000 parameters (n_params)" in message
    assert message.endswith("w16: more than 10 times beyond")


@pytest.mark.parametrize("context_length", [128, 384, 1024, 2048])
@pytest.mark.parametrize(
    ("name", "steps"),
    [("width_and_horizon", 40), ("completep", 40), ("inverse_width", 20), ("tuned", 40), ("llama", 2000)],
)
def test_warm_up_that_is_stated_in_steps_has_them_whatever_the_sequences_length(name, steps, context_length):
    """Where the rule's batch is no whole number of sequences, too."""
    model = model_for_width(32, vocab_size=512, context_length=context_length)
    recipe = make_recipe(name, model, 3 * 10**6, inputs(name))
    assert recipe.warmup_tokens == steps * recipe.batch_sequences * context_length
