"""A run's key, and what its config refuses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llama.config import DataConfig, ModelConfig, Recipe, RunConfig, Transfer, digest, llama_d_ff

MODEL = {
    "vocab_size": 512,
    "d_model": 32,
    "n_layers": 3,
    "n_heads": 2,
    "n_kv_heads": 2,
    "d_ff": 96,
    "context_length": 128,
    "rope_theta": 10_000.0,
    "norm_eps": 1e-5,
    "tied_head": False,
}
RECIPE = {
    "name": "inverse_width",
    "peak_lr": 8e-3,
    "batch_sequences": 8,
    "warmup_tokens": 20_480,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "schedule": "wsd",
    "final_lr_ratio": 0.0,
    "cooldown_fraction": 0.2,
    "cooldown_min_steps": 20,
    "reference_tokens": 1_024_000,
    "transfer": None,
    "skip_sigma": None,
}
DATA = {"corpus_digest": "c" * 64, "weights": {"code": 0.25, "prose": 0.75}, "validation_tokens": 65_536}


def run_config(*, recipe=None, model=None, data=None, **changes):
    values = {
        "model": ModelConfig(**MODEL | (model or {})),
        "data": DataConfig(**DATA | (data or {})),
        "recipe": Recipe(**RECIPE | (recipe or {})),
        "tokens": 1_024_000,
        "seed": 0,
        "dtype": "float32",
        "compile": False,
        "attention_kernel": "flash",
        "micro_batch_sequences": 8,
        "activation_checkpointing": "none",
    }
    return RunConfig(**values | changes)


def test_key_is_pinned():
    """A change here means that every stored run is trained again: raise KEY_VERSION on purpose, or undo it."""
    assert run_config().key == "6db046091b3a7c26"
    assert run_config().trunk().key == "f4de54e14ae7eb79"


CHANGES = [
    *(
        {"model": {name: value}}
        for name, value in [("d_model", 36), ("n_layers", 4), ("vocab_size", 513), ("d_ff", 112)]
    ),
    *({"model": {name: value}} for name, value in [("n_kv_heads", 1), ("rope_theta", 5e5), ("norm_eps", 1e-6)]),
    *({"recipe": {name: value}} for name, value in [("peak_lr", 8.1e-3), ("beta2", 0.99), ("warmup_tokens", 20_481)]),
    *({"recipe": {name: value}} for name, value in [("cooldown_fraction", 0.1), ("reference_tokens", 2_048_000)]),
    *({"data": {name: value}} for name, value in [("corpus_digest", "d" * 64), ("validation_tokens", 65_537)]),
    {"data": {"weights": {"code": 0.5, "prose": 0.5}}},
    *({name: value} for name, value in [("tokens", 2_048_000), ("seed", 1), ("dtype", "bfloat16"), ("compile", True)]),
    {"attention_kernel": "math"},
    {"micro_batch_sequences": 4},
    *({"activation_checkpointing": how} for how in ("selective", "full")),
    *({"recipe": change} for change in ({"skip_sigma": 6.0}, {"transfer": Transfer(base_width=64, base_layers=4)})),
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_number_is_in_the_key(change):
    assert run_config(**change).key != run_config().key


def test_key_survives_json_and_order_of_domains():
    config = run_config()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert RunConfig.model_validate_json(config.model_dump_json()).key == config.key
    assert run_config(data={"weights": {"prose": 0.75, "code": 0.25}}).key == config.key


@given(st.integers(25, 4000), st.integers(25, 4000), st.integers(0, 60), st.floats(0.0, 0.5))
@settings(max_examples=50)
def test_budgets_share_one_trunk_and_fork_where_they_cool(short, long, floor, fraction):
    recipe = {"cooldown_fraction": fraction, "cooldown_min_steps": floor}
    runs = [run_config(recipe=recipe, tokens=steps * 1024) for steps in (short, long)]
    assert runs[0].trunk() == runs[1].trunk()
    assert runs[0].trunk().is_trunk
    for run in runs:
        branch = run.model_copy(update={"parent": run.trunk().key, "fork_step": run.cooldown_start_step})
        assert RunConfig.model_validate(branch.model_dump()) == branch
        assert branch.trunk() == run.trunk()
        assert run.steps - run.cooldown_start_step >= min(floor, run.steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 1_024_001}, "not a whole number of batches"),
        ({"tokens": None, "recipe": {"schedule": "cosine"}}, "needs the wsd schedule"),
        ({"parent": "0" * 16}, "both its parent and its fork_step"),
        ({"parent": "f4de54e14ae7eb79", "fork_step": 799}, "forks where its cooldown starts"),
        ({"parent": "0" * 16, "fork_step": 800}, "is not the key of this branch's trunk"),
        ({"data": {"weights": {"code": 0.5, "prose": 0.4}}}, "sum to 0.9"),
        ({"model": {"n_heads": 3, "n_kv_heads": 3}}, "not divisible by n_heads 3"),
        ({"model": {"n_heads": 4, "n_kv_heads": 3}}, "not divisible by n_kv_heads 3"),
        ({"model": {"n_heads": 32, "n_kv_heads": 32}}, "even head size"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"recipe": {"peak_lr": float("nan")}}, "finite number"),
        ({"recipe": {"beta2": 1.5}}, "less than 1"),
        ({"dtype": "float16"}, "'float32' or 'bfloat16'"),
        ({"nickname": "x"}, "Extra inputs"),
        ({"model": {"d_model": "32"}}, "valid integer"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        run_config(**change)


@pytest.mark.parametrize(("width", "d_ff"), [(4096, 11_008), (5120, 13_824), (6656, 17_920), (8192, 22_016)])
def test_feed_forward_widths_of_llama(width, d_ff):
    assert llama_d_ff(width, 256) == d_ff


def test_digest_refuses_what_json_has_no_number_for():
    with pytest.raises(ValueError, match="JSON"):
        digest({"loss": float("nan")})
