"""The smallest vocabulary: a token a byte. Two bytes that UTF-8 text never holds are its specials, so it is 256 exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from llama.data.tokenizer import BYTES, Tokenizer

BOS_ID, EOS_ID = 0xFF, 0xFE


class ByteTokenizer(Tokenizer):
    """Token i is the byte i. Nothing is learned; its model file says so in a line."""

    MODEL: ClassVar[bytes] = b"isoloss bytes 1: token i is the byte i, BOS 255, EOS 254\n"

    def __init__(self) -> None:
        pieces = [b"" if byte in (BOS_ID, EOS_ID) else bytes([byte]) for byte in range(BYTES)]
        super().__init__(self.MODEL, pieces, bos_id=BOS_ID, eos_id=EOS_ID)

    def encode_batch(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) for text in texts]
