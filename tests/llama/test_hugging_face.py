"""Hugging Face's LlamaForCausalLM with our weights, and ours with its: the same logits and tokens, through folders on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from llama.config import ModelConfig
from llama.decoding import generate
from llama.errors import UserError
from llama.hugging_face import (
    CONFIG_FILE,
    GENERATION_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    from_config,
    from_hugging_face,
    read_model,
    to_config,
    to_hugging_face,
    write_model,
)
from llama.model import Llama
from tests.llama.shapes import tiny_model

SHAPES = {
    "plain": tiny_model(),
    "grouped": tiny_model(n_kv_heads=2, rope_theta=500_000.0),
    "one key-value head, tied": tiny_model(n_kv_heads=1, tied_head=True),
    "narrow heads": tiny_model(n_heads=16, n_kv_heads=8, norm_eps=1e-6),
    "one wide head, deep": tiny_model(d_model=64, n_heads=1, n_kv_heads=1, d_ff=100, n_layers=5),
}


def initialised(config: ModelConfig, *, max_tokens: int | None = None) -> Llama:
    """Random weights, norms included, so that none could change places with another unseen."""
    model = Llama(config, max_tokens=max_tokens)
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(mean=1.0 if weight.ndim == 1 else 0.0, std=0.2, generator=draw)
    return model.eval()


def some_tokens(config: ModelConfig) -> Tensor:
    return torch.randint(config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(5))


def write(model: Llama, folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_model(model, folder, **({"dtype": "float32", "bos_id": 1, "eos_id": 2} | changes))
    return folder


def theirs_from(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs the hf extra")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def assert_equal_weights(one: Llama, other: Llama) -> None:
    assert one.config == other.config
    for (name, weight), (other_name, other_weight) in zip(
        one.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(weight, other_weight), name


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_an_exported_folder_gives_our_logits_and_comes_back_bit_for_bit(config: ModelConfig, tmp_path: Path) -> None:
    model, tokens_BT = initialised(config), some_tokens(config)
    theirs = theirs_from(write(model, tmp_path / "ours"))
    torch.testing.assert_close(theirs(tokens_BT).logits, model(tokens_BT), atol=1e-4, rtol=0)
    assert_equal_weights(read_model(tmp_path / "ours"), model)
    theirs.save_pretrained(tmp_path / "theirs")
    assert_equal_weights(read_model(tmp_path / "theirs"), model)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_a_folder_that_transformers_made_gives_its_logits(config: ModelConfig, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the hf extra")
    torch.manual_seed(6)
    made = transformers.LlamaConfig(**to_config(config, dtype="float32", bos_id=1, eos_id=2))
    theirs = transformers.LlamaForCausalLM(made).eval()
    for weight in theirs.parameters():
        weight.normal_(mean=1.0 if weight.ndim == 1 else 0.0, std=0.2)
    theirs.save_pretrained(tmp_path, max_shard_size=20_000)
    assert (tmp_path / INDEX_FILE).exists()
    tokens_BT = some_tokens(config)
    torch.testing.assert_close(read_model(tmp_path)(tokens_BT), theirs(tokens_BT).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", [SHAPES["plain"], SHAPES["one key-value head, tied"]], ids=["plain", "tied"])
def test_greedy_generation_is_ours_token_for_token(config: ModelConfig, tmp_path: Path) -> None:
    model = initialised(config, max_tokens=48)
    theirs = theirs_from(write(model, tmp_path / "out"))
    prompt_BT = some_tokens(config)
    mask_BT = torch.ones_like(prompt_BT)
    theirs.generation_config.eos_token_id = None  # ours stops at none
    made = theirs.generate(prompt_BT, attention_mask=mask_BT, max_new_tokens=32, do_sample=False)[:, 16:]
    ours = generate(model, prompt_BT, new_tokens=32)
    assert torch.equal(made, ours)
    assert len(set(ours.flatten().tolist())) > 8


@torch.no_grad()
def test_bfloat16_is_the_rounded_weights(tmp_path: Path) -> None:
    model = initialised(SHAPES["grouped"])
    theirs = theirs_from(write(model, tmp_path / "out", dtype="bfloat16"))
    assert theirs.dtype == torch.bfloat16
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())
    assert_equal_weights(read_model(tmp_path / "out"), model)


@torch.no_grad()
def test_a_large_model_is_cut_into_files_that_fit(tmp_path: Path) -> None:
    model = initialised(SHAPES["plain"])
    folder = write(model, tmp_path / "out", shard_bytes=40_000)
    index = json.loads((folder / INDEX_FILE).read_text())
    files = sorted(set(index["weight_map"].values()))
    count = len(files)
    assert files == [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    assert count > 2
    assert not (folder / WEIGHTS_FILE).exists()
    held = {}
    for file in files:
        with safe_open(folder / file, framework="pt") as stored:
            assert stored.metadata() == {"format": "pt"}
            sizes = {name: stored.get_tensor(name).nbytes for name in stored.keys()}  # noqa: SIM118
        assert sum(sizes.values()) <= 40_000
        assert {index["weight_map"][name] for name in sizes} == {file}
        held |= sizes
    assert held.keys() == index["weight_map"].keys()
    assert sum(held.values()) == index["metadata"]["total_size"]
    tokens_BT = some_tokens(model.config)
    torch.testing.assert_close(theirs_from(folder)(tokens_BT).logits, model(tokens_BT), atol=1e-4, rtol=0)
    assert_equal_weights(read_model(folder), model)


@given(
    heads=st.sampled_from([1, 2, 4]),
    grouping=st.sampled_from([1, 2, 4]),
    half_d_head=st.integers(1, 5),
    layers=st.integers(1, 3),
    d_ff=st.integers(1, 9),
    tied=st.booleans(),
)
def test_weights_of_any_shape_make_the_round_trip(
    heads: int, grouping: int, half_d_head: int, layers: int, d_ff: int, tied: bool
) -> None:
    config = tiny_model(
        vocab_size=7,
        d_model=heads * 2 * half_d_head,
        n_heads=heads,
        n_kv_heads=max(1, heads // grouping),
        n_layers=layers,
        d_ff=d_ff,
        tied_head=tied,
    )
    weights = initialised(config).state_dict()
    theirs = to_hugging_face(config, weights)
    assert sum(weight.numel() for weight in theirs.values()) == sum(p.numel() for p in Llama(config).parameters())
    back = from_hugging_face(config, theirs)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())
    assert from_config(to_config(config, dtype="float32", bos_id=1, eos_id=2)) == config


#: What LlamaModel of llama.cpp's conversion/llama.py and base.py, and gguf's SpecialVocab, ask of config.json, beside
#: vLLM's LlamaConfig. Neither runs here: this pins the names that their sources read.
CONFIG_FIELDS = {
    *("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps"),
    *("rope_theta", "rope_parameters", "tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias"),
    *("bos_token_id", "eos_token_id", "dtype", "torch_dtype"),
}


def test_the_files_and_fields_that_other_loaders_read_are_there(tmp_path: Path) -> None:
    folder = write(initialised(SHAPES["grouped"]), tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, GENERATION_FILE, WEIGHTS_FILE}
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config.keys() >= CONFIG_FIELDS
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 8)
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": config["rope_theta"]}
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)  # whole numbers: gguf reads no list
    assert json.loads((folder / GENERATION_FILE).read_text())["eos_token_id"] == [2, 1]
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as stored:
        assert {name.split("layers.0.")[-1] for name in stored.keys() if "layers.1" not in name} == {  # noqa: SIM118
            *("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
            *(f"self_attn.{letter}_proj.weight" for letter in "qkvo"),
            *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
            *("input_layernorm.weight", "post_attention_layernorm.weight"),
        }


def test_configs_before_transformers_5_are_read() -> None:
    config = SHAPES["grouped"]
    old = to_config(config, dtype="float32", bos_id=1, eos_id=2)
    for name in ("rope_parameters", "dtype", "head_dim"):
        del old[name]
    assert from_config(old | {"rope_scaling": None, "pretraining_tp": 1}) == config
    for name in ("rope_theta", "num_key_value_heads"):
        del old[name]
    assert from_config(old) == config.model_copy(update={"rope_theta": 10_000.0, "n_kv_heads": 4})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'; only 'llama'"),
        ({"attention_bias": True}, "attention_bias is True; only False"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "only rope_type 'default'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "only rope_type 'default'"),
        ({"rope_parameters": "default"}, "only rope_type 'default'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "only rope_type 'default'"),
        ({"head_dim": 16}, "head_dim is 16; only hidden_size / num_attention_heads, 32 / 4"),
        ({"hidden_size": None, "head_dim": None}, "it describes no LLaMA"),
        ({"num_attention_heads": 0, "head_dim": None}, "it describes no LLaMA"),
        ({"num_key_value_heads": 3}, "not divisible by n_kv_heads 3"),
        ({"vocab_size": "many"}, "it describes no LLaMA"),
        ({"vocab_size": 301}, "not of the shape in config.json"),
        ({"intermediate_size": 47}, "not of the shape in config.json"),
        ({"num_hidden_layers": 3}, "has no weight 'model.layers.2"),
        ({"num_hidden_layers": 1}, "has a weight model.layers.1"),
        ({"tie_word_embeddings": "yes"}, "it describes no LLaMA"),
    ],
)
def test_what_is_no_llama_as_ours_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = write(initialised(SHAPES["plain"]), tmp_path / "out")
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as refused:
        read_model(folder)
    assert words in str(refused.value)
    assert str(folder) in str(refused.value)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    folder = write(initialised(SHAPES["plain"]), tmp_path / "out")
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match=r"holds no weights: it has no model\.safetensors"):
        read_model(folder)
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle.*safe_serialization=True"):
        read_model(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"model_type": "llama"}'])
def test_a_damaged_config_is_refused(content: bytes, tmp_path: Path) -> None:
    folder = write(initialised(SHAPES["plain"]), tmp_path / "out")
    (folder / CONFIG_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json"):
        read_model(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_cut_weights_are_refused(keep: int, tmp_path: Path) -> None:
    folder = write(initialised(SHAPES["plain"]), tmp_path / "out")
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="safetensors"):
        read_model(folder)


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../model.safetensors"}}']
)
def test_an_index_names_files_beside_it(index: str, tmp_path: Path) -> None:
    folder = write(initialised(SHAPES["plain"]), tmp_path / "out")
    (folder / INDEX_FILE).write_text(index)
    with pytest.raises(UserError, match=r"index\.json"):
        read_model(folder)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no Hugging Face model: it has no config\.json"):
        read_model(tmp_path)
