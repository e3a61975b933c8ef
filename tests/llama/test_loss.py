"""The chunked loss against torch's own cross-entropy over whole logits, and the logits that it never holds."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.allocations import count_allocations
from llama import loss_chunks
from llama.loss import MeanCrossEntropy, losses, next_token_loss
from llama.loss_chunks import loss_chunk_tokens
from llama.model import Llama
from tests.llama.shapes import tiny_model

Problem = tuple[Tensor, Tensor, Tensor]


def problem(*, tokens: int, width: int, vocab: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Problem:
    """States, a head that wants gradients, and targets."""
    draw = torch.Generator().manual_seed(0)
    x_ND = torch.randn(tokens, width, generator=draw, dtype=dtype).requires_grad_()
    head_VD = (scale * torch.randn(vocab, width, generator=draw, dtype=dtype)).requires_grad_()
    return x_ND, head_VD, torch.randint(vocab, (tokens,), generator=draw)


def whole(x_ND: Tensor, head_VD: Tensor, targets_N: Tensor, reduction: str = "mean") -> Tensor:
    """The plain loss: all logits, their log-probabilities and their gradient."""
    logits_NV = F.linear(x_ND, head_VD)
    return F.cross_entropy(
        logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)), targets_N, reduction=reduction
    )


def with_gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return value.detach(), *torch.autograd.grad(value, inputs)


def model_and_tokens(**shape: bool | int) -> tuple[Llama, Tensor, Tensor]:
    model = Llama(tiny_model(**shape))
    model.initialise(torch.Generator().manual_seed(1))
    tokens_BS = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(2))
    return model, tokens_BS[:, :-1], tokens_BS[:, 1:]


@pytest.mark.parametrize("tied_head", [False, True])
@pytest.mark.parametrize("min_chunk_tokens", [7, 128])
def test_a_models_loss_and_gradients_are_those_of_its_whole_logits(
    tied_head: bool, min_chunk_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_chunks, "MIN_CHUNK_TOKENS", {"cpu": min_chunk_tokens})
    monkeypatch.setattr(loss_chunks, "LOGITS_AT_ONCE", {"cpu": 1})
    model, tokens_BT, targets_BT = model_and_tokens(tied_head=tied_head)
    plain = copy.deepcopy(model)
    value = next_token_loss(model, tokens_BT, targets_BT)
    expected = F.cross_entropy(plain(tokens_BT).flatten(0, 1), targets_BT.flatten())
    torch.testing.assert_close(value, expected)
    (value / 3).backward()
    (expected / 3).backward()
    for (name, got), reference in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, reference.grad, atol=1e-6, rtol=1e-5, msg=name)


def test_one_value_a_target_or_their_mean_without_gradients() -> None:
    model, tokens_BT, targets_BT = model_and_tokens()
    expected = F.cross_entropy(model(tokens_BT).flatten(0, 1), targets_BT.flatten(), reduction="none")
    each_N = next_token_loss(model, tokens_BT, targets_BT, reduction="none")
    assert not each_N.requires_grad
    torch.testing.assert_close(each_N, expected)
    with torch.no_grad():
        torch.testing.assert_close(next_token_loss(model, tokens_BT, targets_BT), expected.mean())


@pytest.mark.parametrize("chunk_tokens", [1, 3, 5, 6])
def test_gradients_are_those_of_finite_differences(chunk_tokens: int) -> None:
    x_ND, head_VD, targets_N = problem(tokens=5, width=3, vocab=7, dtype=torch.float64)
    _, *gradients = with_gradients(MeanCrossEntropy.apply(x_ND, head_VD, targets_N, chunk_tokens), x_ND, head_VD)
    for values, gradient in zip((x_ND, head_VD), gradients, strict=True):
        for place, derivative in zip(range(values.numel()), gradient.flatten(), strict=True):
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    values.view(-1)[place] += step
                    ends.append(whole(x_ND, head_VD, targets_N).item())
                    values.view(-1)[place] -= step
            assert derivative.item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


@given(tokens=st.integers(1, 40), vocab=st.integers(1, 50), chunk_tokens=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_any_chunk_length_gives_the_same(tokens: int, vocab: int, chunk_tokens: int) -> None:
    x_ND, head_VD, targets_N = problem(tokens=tokens, width=4, vocab=vocab)
    got = with_gradients(MeanCrossEntropy.apply(x_ND, head_VD, targets_N, chunk_tokens), x_ND, head_VD)
    expected = with_gradients(whole(x_ND, head_VD, targets_N), x_ND, head_VD)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    each_N = losses(x_ND, head_VD, targets_N, chunk_tokens)
    torch.testing.assert_close(each_N, whole(x_ND, head_VD, targets_N, "none"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e2, 1e4])
def test_far_apart_logits_neither_overflow_nor_lose_the_loss(scale: float) -> None:
    x_ND, head_VD, targets_N = problem(tokens=50, width=8, vocab=40, scale=scale)
    got = with_gradients(MeanCrossEntropy.apply(x_ND, head_VD, targets_N, 16), x_ND, head_VD)
    torch.testing.assert_close(
        got, with_gradients(whole(x_ND, head_VD, targets_N), x_ND, head_VD), rtol=1e-5, atol=1e-6
    )


def test_bfloat16_is_as_near_the_truth_as_the_plain_loss() -> None:
    """Under autocast: products in bfloat16; the loss and the head's gradient come in float32."""
    x_ND, head_VD, targets_N = problem(tokens=512, width=64, vocab=300, scale=0.125)
    inputs = x_ND.double().detach().requires_grad_(), head_VD.double().detach().requires_grad_()
    truth = with_gradients(whole(*inputs, targets_N), *inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = with_gradients(whole(x_ND, head_VD, targets_N), x_ND, head_VD)
        chunked = with_gradients(MeanCrossEntropy.apply(x_ND, head_VD, targets_N, 64), x_ND, head_VD)
        mixed = with_gradients(MeanCrossEntropy.apply(x_ND.bfloat16(), head_VD, targets_N, 64), head_VD)
    assert [value.dtype for value in (*chunked, *mixed)] == [torch.float32] * 5
    for got, reference, exact in zip(chunked, plain, truth, strict=True):
        error, plain_error = ((value - exact).norm() / exact.norm() for value in (got, reference))
        assert error < max(1.5 * plain_error, 1e-4)
    torch.testing.assert_close(mixed, (chunked[0], chunked[2]))


def test_a_second_backward_pass_is_refused_not_wrong() -> None:
    x_ND, head_VD, targets_N = problem(tokens=5, width=3, vocab=7)
    value = MeanCrossEntropy.apply(x_ND, head_VD, targets_N, 2)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("target", [-100, -1, 300])
def test_no_target_is_passed_over(target: int) -> None:
    model, tokens_BT, _ = model_and_tokens()
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        next_token_loss(model, tokens_BT, torch.full_like(tokens_BT, target))


def test_it_compiles_into_one_graph() -> None:
    x_ND, head_VD, targets_N = problem(tokens=20, width=4, vocab=30)
    compiled = torch.compile(
        lambda x, head, targets: MeanCrossEntropy.apply(x, head, targets, 8), backend="aot_eager", fullgraph=True
    )
    got = with_gradients(compiled(x_ND, head_VD, targets_N), x_ND, head_VD)
    torch.testing.assert_close(got, with_gradients(whole(x_ND, head_VD, targets_N), x_ND, head_VD))


def test_logits_of_a_large_vocabulary_are_never_whole() -> None:
    x_ND, head_VD, targets_N = problem(tokens=1024, width=8, vocab=32_000)
    chunk_tokens = loss_chunk_tokens(32_000, "cpu")
    head_bytes, logits_bytes, chunk_bytes = head_VD.nbytes, 4 * 1024 * 32_000, 4 * chunk_tokens * 32_000
    plain = count_allocations(lambda: whole(x_ND, head_VD, targets_N).backward())
    assert plain.largest_bytes == logits_bytes
    assert plain.peak_bytes > 2 * logits_bytes
    x_ND.grad = head_VD.grad = None
    chunked = count_allocations(lambda: MeanCrossEntropy.apply(x_ND, head_VD, targets_N, chunk_tokens).backward())
    assert chunked.largest_bytes == chunk_bytes < logits_bytes / 7
    assert chunked.peak_bytes < 1.2 * chunk_bytes + 2 * head_bytes
    measuring = count_allocations(lambda: losses(x_ND, head_VD, targets_N, chunk_tokens))
    assert measuring.peak_bytes < 2.2 * chunk_bytes
