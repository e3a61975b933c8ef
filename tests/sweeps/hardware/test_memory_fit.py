"""Whether runs fit a GPU: against the closed forms and numbers worked by hand."""

import pytest

from llama.accelerators import ACCELERATORS, Accelerator
from llama.accounting import count_parameters
from llama.config import RunConfig
from llama.memory import training_bytes
from sweeps.hardware.memory_fit import CONTEXT_BYTES, fit_on
from tests.sweeps.examples import design

CARDS = {card.name: card for card in ACCELERATORS}


def config(width: int = 1024, **changes) -> RunConfig:
    found = design(
        ladder={"widths": [width], "context_length": 1024},
        budgets={"flops": [1e21]},
        recipe={"name": "inverse_width", "batch_tokens": 65_536},
        precision="bfloat16",
        **changes,
    )
    return next(run.config for run in found.runs if not run.record.is_trunk).model_copy(update={"dtype": "bfloat16"})


def step_bytes(run: RunConfig, micro: int, kind="none") -> int:
    return training_bytes(
        run.model,
        batch_sequences=run.recipe.batch_sequences,
        micro_batch_sequences=micro,
        dtype="bfloat16",
        activation_checkpointing=kind,
        device="cuda",
    )


def card(gigabytes: float) -> Accelerator:
    return Accelerator(
        name="X", driver_name="X", peak_bf16_flops=1e15, memory_bytes=int(gigabytes * 1e9), power_watts=100
    )


def test_a_run_holds_its_step_and_the_context():
    run = config()
    assert run.recipe.batch_sequences == 64
    fit = fit_on(CARDS["H200"], run, 1.0)
    assert fit == (CONTEXT_BYTES + step_bytes(run, 64), True, 1, "1 a GPU")


def test_runs_that_share_a_gpu_must_fit_together():
    run = config(width=64)
    memory = fit_on(CARDS["L4"], run, 0.25).memory_bytes
    assert fit_on(CARDS["L4"], run, 0.25) == (memory, True, 4, "4 a GPU")
    assert fit_on(card(3.5 * memory / 1e9), run, 0.25) == (
        memory,
        False,
        4,
        "4 a GPU are too many, 3 fit: resources.gpus: 0.33",
    )


@pytest.mark.parametrize(
    ("micro", "kind", "remedy"),
    [
        (16, "none", "fits with micro_batch: 16"),
        (1, "none", "fits with micro_batch: 1"),
        (1, "full", "fits with micro_batch: 1, activation_checkpointing: full"),
    ],
)
def test_the_smallest_change_that_helps_is_named(micro, kind, remedy):
    run = config()
    just_enough = (CONTEXT_BYTES + step_bytes(run, micro, kind)) / 1e9
    fit = fit_on(card(just_enough), run, 1.0)
    assert (fit.fits, fit.layout) == (False, f"too large: {remedy}")


def test_seven_billion_parameters_take_more_than_one_gpu():
    """Float32 state of 16 bytes a parameter: 6.7e9 of them are 108 GB, before any activation."""
    found = design(
        ladder={"sizes": ["7B"], "context_length": 2048},
        budgets={"tokens": [10**11]},
        recipe={"name": "llama"},
    )
    run = next(run.config for run in found.runs if not run.record.is_trunk).model_copy(update={"dtype": "bfloat16"})
    state = 16 * count_parameters(run.model).n_params
    assert state > 80e9
    one = fit_on(CARDS["H100"], run.model_copy(update={"micro_batch_sequences": 1}), 1.0)
    assert (one.fits, one.layout) == (False, "too large: needs 2 GPUs a run")
    sharded = run.model_copy(update={"micro_batch_sequences": 8, "activation_checkpointing": "selective"})
    eight = fit_on(CARDS["H100"], sharded, 8.0)
    assert eight == (CONTEXT_BYTES + step_bytes(sharded, 8, "selective") // 8, True, 1, "8 GPUs a run")


def test_a_card_that_cannot_hold_one_sequence_is_told_so():
    assert fit_on(card(0.7), config(), 1.0).layout == "too large: no number of these GPUs holds it"
