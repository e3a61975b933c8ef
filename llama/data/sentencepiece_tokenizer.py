"""A SentencePiece BPE tokenizer as LLaMA's: digits apart, bytes for what has no piece, text left as it is.

SentencePiece writes the space as U+2581, so that character in a text would come back as a space. Here it goes in as its
three byte tokens instead, and decoding joins the bytes that tokens stand for: any UTF-8 text round-trips exactly, that
character, NUL and every control character included, and no other character needs an escape.

Pieces never hold a line end (it is always its byte token) and hold spaces only at their front. So a text falls into
words, spaces in front included, that no token crosses; each word is encoded once and looked up after that.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from llama.data.tokenizer import BYTES, SMALLEST_LEARNED_VOCAB, Tokenizer
from llama.errors import UserError

UNKNOWN_ID, BOS_ID, EOS_ID = 0, 1, 2
SPECIALS = 3

CHARACTER_COVERAGE = 0.99995
"""Share of the sample's characters that get a piece of their own, as LLaMA's; the others are spelled in bytes."""

_CODE_POINTS = 0x110000
SPACE_MARK = "\u2581"
# Line ends and tabs delimit SentencePiece's training input, NUL ends its strings, U+2585 is its mark for an unknown.
_NEVER_IN_PIECES = "\n\t\0\r\u2585" + SPACE_MARK
_MAX_WORD_CHARACTERS = 4096
#: The words that are encoded one by one. No token crosses from one to the next.
WORD = re.compile(f"{SPACE_MARK}| *[^ \n{SPACE_MARK}]{{1,{_MAX_WORD_CHARACTERS}}}| +|\n")
_SEGMENT_CHARACTERS = 1 << 20
_CACHE_CHARACTERS = 1 << 23


class SentencePieceTokenizer(Tokenizer):
    """Pieces learned from text, as LLaMA's."""

    def __init__(self, model: bytes) -> None:
        """From a SentencePiece model file's bytes.

        Raises:
            UserError: they are no SentencePiece model, or one without byte pieces.
        """
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            pieces = [self._piece_bytes(id_) for id_ in range(self._processor.vocab_size())]
        except (RuntimeError, ValueError):  # no model, or pieces that are no UTF-8
            raise UserError("not a SentencePiece model, or a damaged one") from None
        super().__init__(model, pieces, bos_id=BOS_ID, eos_id=EOS_ID)
        byte_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(BYTES)]
        if self._processor.unk_id() in byte_ids:
            raise UserError("the SentencePiece model has no byte pieces: it cannot spell any text")
        self._space_mark_ids = np.array([byte_ids[byte] for byte in SPACE_MARK.encode()], dtype=np.int32).tobytes()
        self._words: dict[str, bytes] = {}
        self._words_characters = 0

    @classmethod
    def learn(cls, sample: Iterable[str], *, vocab_size: int) -> SentencePieceTokenizer:
        """Learn BPE merges from a sample of text. The same sample gives the same model, bit for bit.

        Raises:
            UserError: the sample does not support `vocab_size`; the message says which sizes it does.
        """
        texts = list(sample)
        if vocab_size < SMALLEST_LEARNED_VOCAB:
            raise UserError(
                f"tokenizer.vocab_size {vocab_size} is too small: the {BYTES} bytes, {SPECIALS} specials and one "
                f"character make {SMALLEST_LEARNED_VOCAB} the smallest, but for {BYTES}, which is the bytes alone"
            )
        # A tiny vocabulary must not go to rare characters alone: half of what is free is left for merges.
        characters = _frequent_characters(texts, at_most=(vocab_size - SPECIALS - BYTES + 1) // 2)
        if not characters:
            raise UserError("the tokenizer's sample holds no text to learn from")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_training_lines(texts, characters),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                character_coverage=1.0,  # the lines hold the chosen characters only
                split_digits=True,
                byte_fallback=True,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                max_sentence_length=4 * _SEGMENT_CHARACTERS + 1,  # in bytes; longer lines would be dropped
                shuffle_input_sentence=False,
                num_threads=1,
                unk_id=UNKNOWN_ID,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                pad_id=-1,
                minloglevel=2,
            )
        except RuntimeError as error:
            if "KeyboardInterrupt" in str(error):  # the trainer wraps what stopped its iterator
                raise KeyboardInterrupt from None
            largest = re.search(r"<= (\d+)", str(error))
            if largest is None:
                raise UserError(f"the tokenizer could not be trained: {error}") from None
            sample_bytes = sum(len(text.encode()) for text in texts)
            raise UserError(
                f"tokenizer.vocab_size {vocab_size:,} is too large: a sample of {sample_bytes:,} bytes of training text "
                f"supports {SMALLEST_LEARNED_VOCAB:,} to {int(largest[1]):,}; lower it, or raise tokenizer.sample_bytes"
            ) from None
        return cls(model.getvalue())

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """`encode` of each text. Many short texts at once are encoded several times faster than one by one."""
        encoded: list[list[bytes]] = [[] for _ in texts]
        group: list[tuple[int, str]] = []
        characters = 0
        for index, text in enumerate(texts):
            for segment in _segments(text):
                group.append((index, segment))
                characters += len(segment)
                if characters >= _SEGMENT_CHARACTERS:
                    self._encode_group(group, encoded)
                    group, characters = [], 0
        self._encode_group(group, encoded)
        return [np.frombuffer(b"".join(parts), dtype=np.int32) for parts in encoded]

    def _encode_group(self, group: list[tuple[int, str]], encoded: list[list[bytes]]) -> None:
        """Append each segment's ids to the entry of `encoded` that it belongs to."""
        if self._words_characters > _CACHE_CHARACTERS:
            self._words = {}
            self._words_characters = 0
        known = self._words
        segments = [(index, WORD.findall(segment)) for index, segment in group]
        if unknown := list(set[str]().union(*[words for _, words in segments]).difference(known)):
            # A call costs about as much as encoding fifty words, and they are independent: one call for all.
            ids = self._processor.encode([word.encode() for word in unknown], return_type="numpy", num_threads=1)
            known.update({word: ids_.tobytes() for word, ids_ in zip(unknown, ids, strict=True)})
            known[SPACE_MARK] = self._space_mark_ids
            self._words_characters += sum(map(len, unknown))
        for index, words in segments:
            encoded[index].append(b"".join([known[word] for word in words]))

    def _piece_bytes(self, id_: int) -> bytes:
        piece: str = self._processor.id_to_piece(id_)
        if self._processor.is_byte(id_):
            return bytes([int(piece[3:5], 16)])
        if self._processor.is_control(id_) or self._processor.is_unknown(id_):
            return b""
        return piece.replace(SPACE_MARK, " ").encode()


def _segments(text: str) -> Iterable[str]:
    """The text in parts that bound the memory of encoding it, cut after a line end where there is one."""
    start = 0
    while start < len(text):
        limit = start + _SEGMENT_CHARACTERS
        end = limit if limit >= len(text) else text.rfind("\n", start, limit) + 1 or limit
        yield text[start:end]
        start = end


def _frequent_characters(texts: Iterable[str], *, at_most: int) -> set[int]:
    """Code points of the most frequent characters that make up `CHARACTER_COVERAGE` of the texts, ties by code point."""
    counts = np.zeros(_CODE_POINTS, dtype=np.int64)
    for text in texts:
        here = np.bincount(_code_points(text))
        counts[: len(here)] += here
    counts[[ord(character) for character in _NEVER_IN_PIECES]] = 0
    ranked = np.argsort(-counts, kind="stable")[:at_most]
    before = np.cumsum(counts[ranked]) - counts[ranked]
    return set(ranked[(counts[ranked] > 0) & (before < CHARACTER_COVERAGE * counts.sum())].tolist())


def _training_lines(texts: Iterable[str], characters: set[int]) -> Iterable[str]:
    """The texts' lines, cut at every character that gets no piece of its own."""
    has_piece = np.zeros(_CODE_POINTS, dtype=np.bool_)
    has_piece[list(characters)] = True
    for text in texts:
        points = _code_points(text)
        cut = np.where(has_piece[points], points, np.uint32(ord("\n"))).tobytes().decode("utf-32-le")
        for line in cut.split("\n"):
            for start in range(0, len(line), _SEGMENT_CHARACTERS):
                yield line[start : start + _SEGMENT_CHARACTERS]


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
