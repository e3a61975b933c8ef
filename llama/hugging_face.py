"""Our weights as Hugging Face's LlamaForCausalLM and back: names, layouts, config.json, safetensors.

Three layouts differ. We rotate neighbouring pairs (2j, 2j+1) of a head as the released LLaMA does, Hugging Face rotates
(j, j + E/2), so the rows of each query and key head change places; our query, key and value matrices are one, and our gate
and up. No sum changes, and a round trip gives the same bits.

transformers is not needed here. Nothing is unpickled: weights are read from safetensors alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama.config import DType, ModelConfig
from llama.errors import UserError
from llama.model import Llama

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
"""A model above this many bytes is written in several files, none larger unless one matrix is."""

#: A block's weights that need no more than another name, ours -> theirs.
_BLOCK_NAMES = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.down.weight": "mlp.down_proj.weight",
}
_QKV = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
_GATE_UP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")

#: What their config may say beyond a shape, and the only value that is a LLaMA as ours; absent is that value.
_FIXED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}
_UNSCALED = {"rope_type": "default", "rope_theta": None}


def to_hugging_face(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `Llama` under LlamaForCausalLM's names and layouts. Views where no row moves; a tied head is left out,
    as they do."""
    rows = _qkv_rows(config)
    theirs = {"model.embed_tokens.weight": weights["embedding.weight"], "model.norm.weight": weights["norm.weight"]}
    for layer in range(config.n_layers):
        ours, at = f"blocks.{layer}", f"model.layers.{layer}"
        q, k, v = weights[f"{ours}.attention.qkv.weight"].split(rows)
        halves = (_halves_from_pairs(q, config.d_head), _halves_from_pairs(k, config.d_head), v)
        theirs |= {f"{at}.{name}": weight for name, weight in zip(_QKV, halves, strict=True)}
        gate_up = weights[f"{ours}.feed_forward.gate_up.weight"].chunk(2)
        theirs |= {f"{at}.{name}": weight for name, weight in zip(_GATE_UP, gate_up, strict=True)}
        theirs |= {f"{at}.{name}": weights[f"{ours}.{own}"] for own, name in _BLOCK_NAMES.items()}
    if not config.tied_head:
        theirs["lm_head.weight"] = weights["head.weight"]
    return theirs


def from_hugging_face(config: ModelConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict for `Llama` from LlamaForCausalLM's weights; the inverse of `to_hugging_face`.

    Raises:
        KeyError: a weight is missing.
    """
    embedding = theirs["model.embed_tokens.weight"]
    weights = {"embedding.weight": embedding, "norm.weight": theirs["model.norm.weight"]}
    for layer in range(config.n_layers):
        ours, at = f"blocks.{layer}", f"model.layers.{layer}"
        q, k, v = (theirs[f"{at}.{name}"] for name in _QKV)
        pairs = (_pairs_from_halves(q, config.d_head), _pairs_from_halves(k, config.d_head), v)
        weights[f"{ours}.attention.qkv.weight"] = torch.cat(pairs)
        weights[f"{ours}.feed_forward.gate_up.weight"] = torch.cat([theirs[f"{at}.{name}"] for name in _GATE_UP])
        weights |= {f"{ours}.{own}": theirs[f"{at}.{name}"] for own, name in _BLOCK_NAMES.items()}
    weights["head.weight"] = embedding if config.tied_head else theirs["lm_head.weight"]
    return weights


def _qkv_rows(config: ModelConfig) -> list[int]:
    return [heads * config.d_head for heads in (config.n_heads, config.n_kv_heads, config.n_kv_heads)]


def _halves_from_pairs(weight: Tensor, d_head: int) -> Tensor:
    """Rows of each head from (x0, y0, x1, y1 ...) to (x0, x1 ... y0, y1 ...)."""
    return weight.unflatten(0, (-1, d_head // 2, 2)).transpose(1, 2).flatten(0, 2)


def _pairs_from_halves(weight: Tensor, d_head: int) -> Tensor:
    return weight.unflatten(0, (-1, 2, d_head // 2)).transpose(1, 2).flatten(0, 2)


def to_config(config: ModelConfig, *, dtype: DType, bos_id: int, eos_id: int) -> dict[str, Any]:
    """`config.json`. transformers 5 reads `rope_parameters` and `dtype`; before it, and in programs that read the file
    themselves, they are `rope_theta` and `torch_dtype`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        **_FIXED,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "attention_dropout": 0.0,
        "use_cache": True,
    }


def from_config(theirs: Mapping[str, Any]) -> ModelConfig:
    """The shape that a `config.json` describes.

    Raises:
        UserError: it is no LLaMA that this model can be; the message names the field.
    """
    for name, right in _FIXED.items():
        if theirs.get(name, right) != right:
            raise UserError(f"{name} is {theirs[name]!r}; only {right!r} is a LLaMA as here")
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if rope and (not isinstance(rope, dict) or {**rope, "rope_theta": None} != _UNSCALED):
        raise UserError(f"rotary embedding is {rope}; only rope_type 'default', unscaled, is a LLaMA as here")
    try:
        heads, d_model = theirs["num_attention_heads"], theirs["hidden_size"]
        if (d_head := theirs.get("head_dim") or d_model // heads) * heads != d_model:
            raise UserError(
                f"head_dim is {d_head}; only hidden_size / num_attention_heads, {d_model} / {heads}, is right"
            )
        return ModelConfig(
            vocab_size=theirs["vocab_size"],
            d_model=d_model,
            n_layers=theirs["num_hidden_layers"],
            n_heads=heads,
            n_kv_heads=theirs.get("num_key_value_heads") or heads,
            d_ff=theirs["intermediate_size"],
            context_length=theirs["max_position_embeddings"],
            rope_theta=float(rope.get("rope_theta") or theirs.get("rope_theta") or 10_000.0),
            norm_eps=theirs["rms_norm_eps"],
            tied_head=theirs.get("tie_word_embeddings", False),
        )
    except KeyError as missing:
        raise UserError(f"the field {missing} is missing") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"it describes no LLaMA: {error}") from None


def write_model(
    model: Llama, folder: Path, *, dtype: DType, bos_id: int, eos_id: int, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write config, generation config and weights into a folder that exists.

    Training text has a BOS before each document and no EOS, so a model ends a document by a BOS: generation stops at either.

    Raises:
        OSError, SafetensorError: the folder can't be written.
    """
    _write_json(folder / CONFIG_FILE, to_config(model.config, dtype=dtype, bos_id=bos_id, eos_id=eos_id))
    _write_json(folder / GENERATION_FILE, {"bos_token_id": bos_id, "eos_token_id": [eos_id, bos_id]})
    element = getattr(torch, dtype)
    weights = to_hugging_face(model.config, {name: weight.detach() for name, weight in model.state_dict().items()})
    shards = _shards(weights, element.itemsize, shard_bytes)
    files = [WEIGHTS_FILE]
    if len(shards) > 1:
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        total_bytes = sum(weight.numel() for weight in weights.values()) * element.itemsize
        placed = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": placed})
    for file, names in zip(files, shards, strict=True):
        # A clone a weight, since safetensors takes no views into shared memory; one file's worth at a time.
        shard = {name: weights[name].to("cpu", element, copy=True).contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod((folder / CONFIG_FILE).stat().st_mode)  # it comes readable by its owner alone


def _shards(weights: Mapping[str, Tensor], element_bytes: int, shard_bytes: int) -> list[list[str]]:
    """The names in order, cut where the next weight would not fit."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, weight in weights.items():
        size = weight.numel() * element_bytes
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_model(folder: Path) -> Llama:
    """A LLaMA that transformers, or `write_model`, wrote, in float32.

    Raises:
        UserError: the folder holds none, or one that is not a LLaMA as here, or only pickled weights, which are never read.
    """
    config_path = folder / CONFIG_FILE
    config = _read_config(config_path)
    theirs: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            theirs |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} can't be read as safetensors: {error}") from None
    try:
        weights = from_hugging_face(config, theirs)
        model = Llama(config)
        model.load_state_dict({name: weight.float() for name, weight in weights.items()})
        known = to_hugging_face(config, weights).keys() | {"lm_head.weight"}  # a tied head may be stored all the same
        if strange := sorted(name for name in theirs.keys() - known if not name.endswith("rotary_emb.inv_freq")):
            raise UserError(f"{folder} has a weight {strange[0]}, which a LLaMA as in {config_path.name} has not")
    except KeyError as missing:
        raise UserError(f"{folder} has no weight {missing}, which {config_path.name} asks for") from None
    except RuntimeError as error:
        raise UserError(f"the weights of {folder} are not of the shape in {config_path.name}: {error}") from None
    return model


def _read_config(path: Path) -> ModelConfig:
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} holds no Hugging Face model: it has no {path.name}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
    if not isinstance(theirs, dict):
        raise UserError(f"{path} is no JSON object")
    try:
        return from_config(theirs)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files: those that the index names where there is one.

    Raises:
        UserError: there are none, or the index names something else than files beside it.
    """
    if (index := folder / INDEX_FILE).is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{index} is no index of weights") from None
        if strange := [name for name in names if Path(str(name)).name != name or not name.endswith(".safetensors")]:
            raise UserError(f"{index} names {strange[0]!r}; safetensors files beside it are right")
        return [folder / name for name in names]
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if pickled := sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]):
        raise UserError(
            f"{pickled[0]} is a pickle, which runs code when it is read: save the model again with transformers' "
            f"save_pretrained(..., safe_serialization=True), which writes {WEIGHTS_FILE}"
        )
    raise UserError(f"{folder} holds no weights: it has no {WEIGHTS_FILE}")
