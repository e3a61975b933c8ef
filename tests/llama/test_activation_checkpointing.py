"""Three ways to keep activations: the same gradients, the same names, less memory, and the stated extra FLOPs."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.allocations import count_allocations
from benchmarks.memory import UNCOUNTED
from llama.accounting import forward_flops_per_token
from llama.activation_checkpointing import apply_activation_checkpointing
from llama.config import ActivationCheckpointing, ModelConfig
from llama.loss import next_token_loss
from llama.model import Llama
from tests.llama.shapes import tiny_model

HOW: tuple[ActivationCheckpointing, ...] = get_args(ActivationCheckpointing)


def model_with(how: ActivationCheckpointing, **shape: int) -> Llama:
    model = Llama(tiny_model(**shape))
    model.initialise(torch.Generator().manual_seed(1))
    apply_activation_checkpointing(model, how)
    return model


def batch_loss(model: Llama, *, sequences: int = 3) -> torch.Tensor:
    shape = (sequences, model.config.context_length + 1)
    tokens_BS = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(2))
    return next_token_loss(model, tokens_BS[:, :-1], tokens_BS[:, 1:])


def gradients(model: Llama) -> list[torch.Tensor]:
    return list(torch.autograd.grad(batch_loss(model), list(model.parameters())))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("n_kv_heads", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_bits(how: ActivationCheckpointing, n_kv_heads: int, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        plain = gradients(model_with("none", n_kv_heads=n_kv_heads))
        kept = gradients(model_with(how, n_kv_heads=n_kv_heads))
    assert all(torch.equal(got, expected) for got, expected in zip(kept, plain, strict=True))


@pytest.mark.parametrize("how", HOW)
def test_the_state_dict_keeps_its_names_and_loads(how: ActivationCheckpointing) -> None:
    plain, model = model_with("none"), model_with(how)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    plain.load_state_dict(copy.deepcopy(model.state_dict()))


@pytest.mark.parametrize("how", ["selective", "full"])
def test_a_checkpointed_block_compiles_into_one_graph(how: ActivationCheckpointing) -> None:
    torch._dynamo.reset()
    model = model_with(how)
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(model), gradients(model_with("none")), atol=1e-5, rtol=1e-4)


def counted_flops(how: ActivationCheckpointing) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    with counter:
        batch_loss(model_with(how)).backward()
    return counter.get_total_flops()


def test_selective_repeats_no_matrix_product_and_full_all_of_a_block_but_its_last() -> None:
    plain = counted_flops("none")
    assert counted_flops("selective") == plain
    model = tiny_model()
    head_and_last = model.vocab_size * model.d_model + model.n_layers * model.d_model * model.d_ff
    repeated_per_token = forward_flops_per_token(model, model.context_length) - 2 * head_and_last
    assert counted_flops("full") == plain + 3 * model.context_length * repeated_per_token


def test_each_kind_keeps_less_for_the_backward_pass() -> None:
    """Bytes of the graph, read off torch's allocator once the loss is there and nothing has gone backward."""
    shape = {"d_model": 64, "n_heads": 4, "d_ff": 176, "n_layers": 4, "context_length": 64}
    kept: dict[ActivationCheckpointing, int] = {}
    for how in HOW:
        model = model_with(how, **shape)
        batch_loss(model)  # whatever is made once
        kept[how] = count_allocations(lambda model=model: batch_loss(model)).held_bytes
    assert kept["selective"] < 0.6 * kept["none"]
    assert kept["full"] < 0.2 * kept["selective"]


@pytest.mark.parametrize("how", ["selective", "full"])
def test_the_backward_pass_peaks_lower(how: ActivationCheckpointing) -> None:
    shape = {"d_model": 64, "n_heads": 4, "d_ff": 176, "n_layers": 6, "context_length": 64}
    peaks = []
    for kind in ("none", how):
        model = model_with(kind, **shape)
        peaks.append(count_allocations(lambda model=model: batch_loss(model).backward()).peak_bytes)
    assert peaks[1] < 0.75 * peaks[0]


def test_decoding_and_validation_are_untouched() -> None:
    config: ModelConfig = tiny_model()
    tokens_BT = torch.zeros(2, config.context_length, dtype=torch.long)
    with torch.no_grad():
        assert torch.equal(model_with("full")(tokens_BT), model_with("none")(tokens_BT))
