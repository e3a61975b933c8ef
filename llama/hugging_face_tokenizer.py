"""Our tokenizers as transformers' files: a `tokenizer.json` that gives the same ids, and SentencePiece's model as it is.

transformers and vLLM read `tokenizer.json`; llama.cpp's converter reads `tokenizer.model`, and where there is none, as for
plain bytes, asks transformers. The usual conversion writes the space as U+2581, and then a text that holds U+2581 turns into
spaces. Here the pieces of `tokenizer.json` hold real spaces, so U+2581 is one more character without a piece and becomes
three byte tokens, as `SentencePieceTokenizer` makes it. Ids are equal for every text but one kind: where more than 2^20
characters pass without a line end, the tokenizer here starts anew, and a token that would have gone on ends there.

SentencePiece joins the neighbours that make the piece of best score; the `tokenizers` library wants every pair that makes a
piece, best piece first. In which order the pairs of one piece stand is all the same: it would matter only where two overlap,
x y and y z of equal characters, and equal characters are joined to the same tokens, so that x = y = z.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import sentencepiece

from llama.data.byte_tokenizer import ByteTokenizer
from llama.data.sentencepiece_tokenizer import SPACE_MARK, WORD, SentencePieceTokenizer
from llama.data.tokenizer import BYTES, Tokenizer
from llama.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SENTENCEPIECE_FILE = "tokenizer.model"

UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, context_length: int) -> None:
    """Write the tokenizer's files into a folder that exists.

    Raises:
        UserError: the tokenizer is none that isoloss trains.
        OSError: the folder can't be written.
    """
    rules = tokenizer_json(tokenizer)
    config = tokenizer_config([token["content"] for token in rules["added_tokens"]], context_length=context_length)
    for name, document in ((TOKENIZER_FILE, rules), (TOKENIZER_CONFIG_FILE, config)):
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if isinstance(tokenizer, SentencePieceTokenizer):
        tokenizer.save(folder / SENTENCEPIECE_FILE)


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What the `tokenizers` library reads. An encoded text begins with BOS, as each training document did.

    Raises:
        UserError: the tokenizer is none that isoloss trains.
    """
    vocab, merges, words = _bytes_alone() if isinstance(tokenizer, ByteTokenizer) else _pieces(tokenizer)
    first, text = {"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second, pair = {"SpecialToken": {"id": BOS, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(name, vocab[name]) for name in (UNKNOWN, BOS, EOS) if name in vocab],
        "normalizer": None,
        "pre_tokenizer": words,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, text],
            "pair": [first, text, second, pair],
            "special_tokens": {BOS: {"id": BOS, "ids": [tokenizer.bos_id], "tokens": [BOS]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNKNOWN if UNKNOWN in vocab else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def tokenizer_config(specials: Sequence[str], *, context_length: int) -> dict[str, Any]:
    """`tokenizer_config.json` of a tokenizer that has these special tokens.

    The class is the one that takes `tokenizer.json` as it stands; LlamaTokenizer would put rules of its own in its place.
    `split_special_tokens` leaves "<s>" in a text the three characters that it is; `add_prefix_space` tells llama.cpp's
    converter that no space goes before a text.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": UNKNOWN if UNKNOWN in specials else None,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context_length,
    }


Parts = tuple[dict[str, int], list[list[str]], dict[str, Any] | None]


def _pieces(tokenizer: Tokenizer) -> Parts:
    """Vocabulary, merges and words of a SentencePiece BPE model."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    names = [processor.id_to_piece(id_).replace(SPACE_MARK, " ") for id_ in range(processor.vocab_size())]
    vocab = {name: id_ for id_, name in enumerate(names)}
    normal = [
        id_
        for id_ in vocab.values()
        if not (processor.is_control(id_) or processor.is_unknown(id_) or processor.is_byte(id_))
    ]
    best_first = all(processor.get_score(id_) > processor.get_score(later) for id_, later in pairwise(normal))
    if not best_first or (vocab.get(BOS), vocab.get(EOS)) != (tokenizer.bos_id, tokenizer.eos_id):
        raise UserError(
            "the tokenizer is no BPE model that isoloss trained: its pieces don't stand by score, best first"
        )
    pieces = dict.fromkeys(names[id_] for id_ in normal)
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    words = {"type": "Split", "pattern": {"Regex": WORD.pattern}, "behavior": "Isolated", "invert": False}
    return vocab, merges, words


def _bytes_alone() -> Parts:
    """A vocabulary of bytes, but for its two specials: what has no piece is spelled in bytes, and nothing has one."""
    tokenizer = ByteTokenizer()
    names = {tokenizer.bos_id: BOS, tokenizer.eos_id: EOS}
    return {names.get(byte, f"<0x{byte:02X}>"): byte for byte in range(BYTES)}, [], None


def _special(name: str, id_: int) -> dict[str, Any]:
    how = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": name, **how, "special": True}
