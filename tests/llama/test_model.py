import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.allocations import count_allocations
from llama.accounting import count_parameters
from llama.config import ModelConfig
from llama.decoding import generate
from llama.kv_cache import KVCache
from llama.loss import next_token_loss
from llama.model import Llama, rotary_table, rotate
from tests.llama.shapes import tiny_model


def initialised(config: ModelConfig, **options: int) -> Llama:
    model = Llama(config, **options)
    model.initialise(torch.Generator().manual_seed(1))
    return model


def reference_logits(model: Llama, tokens_BT: Tensor) -> Tensor:
    """LLaMA written out with real arithmetic, explicit masks and one product a matrix."""
    config = model.config
    B, T = tokens_BT.shape
    H, K, E = config.n_heads, config.n_kv_heads, config.d_head
    angle_TJ = torch.arange(T)[:, None] * config.rope_theta ** (-torch.arange(0, E, 2) / E)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + config.norm_eps) * weight

    def rope(x_BTHE: Tensor) -> Tensor:
        even, odd = x_BTHE[..., 0::2], x_BTHE[..., 1::2]
        cos, sin = angle_TJ.cos()[:, None], angle_TJ.sin()[:, None]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)

    x = model.embedding.weight[tokens_BT]
    for block in model.blocks:
        h = norm(x, block.attention_norm.weight)
        wq, wk, wv = block.attention.qkv.weight.split([H * E, K * E, K * E])
        q, k, v = (h @ wq.T).view(B, T, H, E), (h @ wk.T).view(B, T, K, E), (h @ wv.T).view(B, T, K, E)
        k, v = rope(k).repeat_interleave(H // K, dim=2), v.repeat_interleave(H // K, dim=2)
        scores = torch.einsum("bthe,bshe->bhts", rope(q), k) / math.sqrt(E)
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
        x = x + torch.einsum("bhts,bshe->bthe", scores.softmax(-1), v).flatten(2) @ block.attention.out.weight.T
        h = norm(x, block.feed_forward_norm.weight)
        gate, up = block.feed_forward.gate_up.weight.chunk(2)
        x = x + (F.silu(h @ gate.T) * (h @ up.T)) @ block.feed_forward.down.weight.T
    return norm(x, model.norm.weight) @ model.head.weight.T


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied_head", [False, True])
def test_logits_equal_a_plain_reference(n_kv_heads: int, tied_head: bool) -> None:
    model = initialised(tiny_model(n_kv_heads=n_kv_heads, tied_head=tied_head))
    tokens_BT = torch.randint(300, (3, 16), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(tokens_BT), reference_logits(model, tokens_BT), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_kv_heads", [1, 4])
@pytest.mark.parametrize("tied_head", [False, True])
def test_counted_parameters_equal_the_closed_forms(n_kv_heads: int, tied_head: bool) -> None:
    model = Llama(tiny_model(n_kv_heads=n_kv_heads, tied_head=tied_head))
    counts = count_parameters(model.config)
    numel = {name: weight.numel() for name, weight in model.named_parameters()}
    assert sum(numel.values()) == counts.n_params
    embeddings = {"embedding.weight", "head.weight"}
    assert sum(n for name, n in numel.items() if name not in embeddings) == counts.n_params_non_embedding
    matrices = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    assert matrices == counts.n_params_matmul


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 37, 256])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_attention_equals_a_plain_reference(n_kv_heads: int, tokens: int, dtype: torch.dtype, atol: float) -> None:
    """The flash kernel's outputs and gradients against softmax(q k^T / sqrt(E)) v with a mask, in float64."""
    draw = torch.Generator().manual_seed(0)
    q_BHTE, k_BKTE, v_BKTE, dy_BHTE = (
        torch.randn(2, heads, tokens, 16, generator=draw) for heads in (4, n_kv_heads, n_kv_heads, 4)
    )
    inputs = [x.to(dtype).requires_grad_() for x in (q_BHTE, k_BKTE, v_BKTE)]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        y_BHTE = F.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=n_kv_heads != 4)
    got = [y_BHTE, *torch.autograd.grad(y_BHTE, inputs, dy_BHTE.to(dtype))]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    q, k, v = exact[0], *(x.repeat_interleave(4 // n_kv_heads, dim=1) for x in exact[1:])
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    reference = (q @ k.transpose(2, 3) / 4).masked_fill(hidden, -math.inf).softmax(-1) @ v
    expected = [reference, *torch.autograd.grad(reference, exact, dy_BHTE.to(dtype).double())]
    for x, y in zip(got, expected, strict=True):
        # Gradients of shared heads are sums over the heads that share them.
        torch.testing.assert_close(
            x.double(), y, atol=atol * max(1, 4 // n_kv_heads) * max(1.0, y.abs().max().item()), rtol=0
        )


@pytest.mark.parametrize("n_kv_heads", [1, 4])
def test_a_training_steps_memory_is_linear_in_the_context(n_kv_heads: int) -> None:
    """No attention matrix is stored, forward or backward: at the longest context here it alone would outweigh all the rest."""
    peaks: dict[int, int] = {}
    contexts = (256, 512, 1024)
    for context in contexts:
        model = initialised(tiny_model(context_length=context, n_kv_heads=n_kv_heads, vocab_size=64))
        tokens_BT = torch.zeros(1, context, dtype=torch.long)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            step = count_allocations(lambda m=model, t=tokens_BT: next_token_loss(m, t, t).backward())
        peaks[context] = step.peak_bytes
    first, second = peaks[512] - peaks[256], peaks[1024] - peaks[512]
    assert second == pytest.approx(2 * first, rel=0.05)
    scores_bytes = 4 * 4 * 1024**2
    assert peaks[1024] < scores_bytes


def test_rotation_keeps_norms_and_depends_on_distance_only() -> None:
    config = tiny_model()
    table_TE = rotary_table(config, 16)
    q, k = torch.randn(2, 1, 1, 1, config.d_head).expand(2, 1, 16, 1, config.d_head)
    q_BTHE, k_BTHE = rotate(q, table_TE), rotate(k, table_TE)
    torch.testing.assert_close(q_BTHE.norm(dim=-1), q.norm(dim=-1))
    scores_TS = (q_BTHE[0, :, 0] @ k_BTHE[0, :, 0].T).detach()
    for distance in (-5, 0, 3):
        diagonal = scores_TS.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_kv_heads", [1, 4])
def test_cached_decoding_equals_reading_the_whole_text_again(n_kv_heads: int) -> None:
    model = initialised(tiny_model(n_kv_heads=n_kv_heads), max_tokens=40)
    prompt_BT = torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(3))
    text_BT = prompt_BT
    for _ in range(20):
        text_BT = torch.cat([text_BT, model(text_BT)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(model, prompt_BT, new_tokens=20), text_BT[:, 9:])


@torch.no_grad()
def test_cached_logits_equal_uncached_ones() -> None:
    model = initialised(tiny_model())
    tokens_BT = torch.randint(300, (2, 16))
    cache = KVCache(model.config, batch=2, max_tokens=16, dtype=torch.float32, device=torch.device("cpu"))
    pieces = [model(tokens_BT[:, :7], cache)] + [model(tokens_BT[:, t : t + 1], cache) for t in range(7, 16)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens_BT), atol=1e-5, rtol=1e-5)


def test_a_fresh_model_predicts_almost_uniformly() -> None:
    model = initialised(tiny_model(d_model=64, n_heads=4, d_ff=176))
    tokens_BT = torch.randint(300, (32, 17), generator=torch.Generator().manual_seed(2))
    loss = next_token_loss(model, tokens_BT[:, :-1], tokens_BT[:, 1:]).item()
    # Unit-variance logits cost half a nat over the uniform guess.
    assert loss == pytest.approx(math.log(300) + 0.5, abs=0.25)


def test_the_same_seed_draws_the_same_weights() -> None:
    a, b = initialised(tiny_model()), initialised(tiny_model())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_positions_and_caches_that_would_give_wrong_answers_are_refused() -> None:
    model = initialised(tiny_model())
    with pytest.raises(ValueError, match="beyond the model's 16"):
        generate(model, torch.zeros(1, 10, dtype=torch.long), new_tokens=20)
    cache = KVCache(model.config, batch=1, max_tokens=16, dtype=torch.float32, device=torch.device("cpu"))
    model(torch.zeros(1, 4, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="one token at a time"):
        model(torch.zeros(1, 2, dtype=torch.long), cache)
