"""The same weights in Hugging Face's LLaMA give the same logits."""

import pytest
import torch
from torch import Tensor

from llama.model import Llama
from tests.llama.shapes import tiny_model

transformers = pytest.importorskip("transformers", reason="needs the hf extra")


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rotary pairs: we rotate neighbours (2j, 2j+1) as the released LLaMA, Hugging Face rotates (j, j + E/2)."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@torch.no_grad()
def test_logits_equal_hugging_faces(n_kv_heads: int) -> None:
    config = tiny_model(n_kv_heads=n_kv_heads)
    model = Llama(config)
    model.initialise(torch.Generator().manual_seed(4))
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=False,
        )
    ).eval()
    heads, kv_heads = config.n_heads, config.n_kv_heads
    weights = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for layer, block in enumerate(model.blocks):
        at = f"model.layers.{layer}"
        q, k, v = block.attention.qkv.weight.split([n * config.d_head for n in (heads, kv_heads, kv_heads)])
        gate, up = block.feed_forward.gate_up.weight.chunk(2)
        weights |= {
            f"{at}.self_attn.q_proj.weight": halves_from_pairs(q, heads),
            f"{at}.self_attn.k_proj.weight": halves_from_pairs(k, kv_heads),
            f"{at}.self_attn.v_proj.weight": v,
            f"{at}.self_attn.o_proj.weight": block.attention.out.weight,
            f"{at}.mlp.gate_proj.weight": gate,
            f"{at}.mlp.up_proj.weight": up,
            f"{at}.mlp.down_proj.weight": block.feed_forward.down.weight,
            f"{at}.input_layernorm.weight": block.attention_norm.weight,
            f"{at}.post_attention_layernorm.weight": block.feed_forward_norm.weight,
        }
    theirs.load_state_dict(weights)
    tokens_BT = torch.randint(config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(model(tokens_BT), theirs(tokens_BT).logits, atol=1e-4, rtol=1e-4)
