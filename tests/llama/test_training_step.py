"""One step: the same update whatever the micro-batch, and nothing in it that waits for the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llama.log_window import LogWindow
from llama.model import Llama
from llama.optimizer import make_optimizer
from llama.precision import precision
from llama.spikes import SpikeFilter
from llama.training_step import StepResult, training_step
from tests.llama.host_reads import host_reads
from tests.llama.shapes import tiny_model, tiny_recipe

CPU = torch.device("cpu")


class Run:
    """A tiny model trained on random tokens."""

    def __init__(self, *, dtype: str = "float32", spikes: SpikeFilter | None = None, tied_head: bool = False):
        self.dtype, self.spikes = dtype, spikes
        self.model = Llama(tiny_model(tied_head=tied_head))
        self.model.initialise(torch.Generator().manual_seed(0))
        self.optimizer = make_optimizer(self.model, tiny_recipe())
        self.draw = torch.Generator().manual_seed(1)

    def step(self, *, sequences: int = 12, micro: int = 12) -> StepResult:
        tokens_BS = torch.randint(300, (sequences, 17), generator=self.draw)
        with precision(CPU, self.dtype, "flash"):
            return training_step(
                self.model,
                self.optimizer,
                tokens_BS,
                micro_batch_sequences=micro,
                learning_rate=1e-2,
                clip_norm=0.5,
                spikes=self.spikes,
            )


@pytest.mark.parametrize("tied_head", [False, True])
@pytest.mark.parametrize("micro", [1, 2, 3, 4, 6])
def test_every_micro_batch_gives_the_whole_batchs_curve(micro: int, tied_head: bool) -> None:
    whole, parts = Run(tied_head=tied_head), Run(tied_head=tied_head)
    for _ in range(10):
        expected, found = whole.step(), parts.step(micro=micro)
        assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
        assert found.grad_norm.item() == pytest.approx(expected.grad_norm.item(), rel=1e-4)
    for x, y in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


def test_in_bfloat16_gradients_still_add_up_in_float32() -> None:
    whole, parts = Run(dtype="bfloat16"), Run(dtype="bfloat16")
    seen: list[torch.dtype] = []
    parts.model.head.weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.dtype))
    expected, found = whole.step(), parts.step(micro=1)
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=2e-3)
    assert found.grad_norm.item() == pytest.approx(expected.grad_norm.item(), rel=1e-2)
    assert seen == [torch.float32] * 12


def test_the_backward_pass_is_outside_autocast() -> None:
    """Under it the plain kernel's products would be rounded to bfloat16 where attention is kept in float32."""
    run, seen = Run(dtype="bfloat16"), []
    run.model.embedding.weight.register_hook(lambda gradient: seen.append(torch.is_autocast_enabled("cpu")))
    run.step(micro=6)
    assert seen == [False, False]


@given(micro=st.sampled_from([1, 2, 4]), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_the_gradient_is_that_of_the_mean_over_all_tokens(micro: int, seed: int) -> None:
    """Held against autograd in float64, on logits of the whole batch at once."""
    run = Run()
    exact = Llama(tiny_model()).double()
    exact.load_state_dict(run.model.state_dict())
    tokens_BS = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(seed))
    logits_NV = exact(tokens_BS[:, :-1]).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits_NV, tokens_BS[:, 1:].flatten()).backward()
    gradients: dict[str, torch.Tensor] = {}
    # Taken when the update begins, which is after the last micro-batch; the clip is out of reach.
    run.optimizer.register_step_pre_hook(
        lambda *_: gradients.update({name: weight.grad.clone() for name, weight in run.model.named_parameters()})
    )
    training_step(run.model, run.optimizer, tokens_BS, micro_batch_sequences=micro, learning_rate=1e-2, clip_norm=1e9)
    for name, weight in exact.named_parameters():
        largest = weight.grad.abs().max().item()
        torch.testing.assert_close(gradients[name].double(), weight.grad, rtol=1e-4, atol=1e-4 * largest)


@pytest.mark.parametrize("micro", [4, 2])
@pytest.mark.parametrize("skipping", [False, True])
def test_a_step_reads_nothing_back_from_the_device(micro: int, skipping: bool) -> None:
    run = Run(spikes=SpikeFilter(6.0, CPU) if skipping else None)
    window = LogWindow(CPU)
    for _ in range(3):
        with host_reads() as reads:
            window.add(run.step(sequences=4, micro=micro))
        assert reads == []
    with host_reads() as reads:
        window.close()
    assert "cpu" in reads, "the counter sees nothing"


@pytest.mark.parametrize(
    "read", [lambda x: x[0].item(), lambda x: bool(x[0]), lambda x: float(x[0]), lambda x: x[x > 0], torch.nonzero]
)
def test_the_counter_of_host_reads_counts(read: Callable[[torch.Tensor], object]) -> None:
    x = torch.ones(3)
    with host_reads() as reads:
        read(x)
    assert reads
