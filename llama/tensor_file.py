"""Files of named tensors in the safetensors format, written and read a tensor at a time: none is held twice.

The library of that format turns a whole file into bytes and back. Here a checkpoint of a model that fills most of the memory
passes through it as it is, and its SHA-256 is of the bytes in memory, not of what a disk gave back.
Format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {"F32": torch.float32, "I64": torch.int64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LENGTH_BYTES = 8
_METADATA = "__metadata__"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write float32 and int64 tensors, on whatever device, to stay; returns the file's SHA-256 in hexadecimal."""
    # The widest first, so that each is aligned; equal contents have equal bytes.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    entries: dict[str, object] = {_METADATA: dict(metadata)}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)
    sha256 = hashlib.sha256()
    with open(path, "wb") as file:
        for part in (len(header).to_bytes(_LENGTH_BYTES, "little"), header):
            sha256.update(part)
            file.write(part)
        for _, tensor in ordered:
            content = _bytes_of(tensor.detach().cpu().contiguous())
            sha256.update(content)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return sha256.hexdigest()


def read_tensors(file: BufferedReader) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file that is known to be whole, on the CPU, and its metadata.

    Raises:
        ValueError: it holds no such tensors.
    """
    file.seek(0)
    header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    entries = json.loads(file.read(header_bytes))
    metadata = entries.pop(_METADATA, {})
    tensors = {}
    for name, entry in entries.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{name} is of type {entry['dtype']}")
        tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
        file.seek(_LENGTH_BYTES + header_bytes + entry["data_offsets"][0])
        if file.readinto(_bytes_of(tensor)) != tensor.nbytes:
            raise ValueError(f"{name} is cut short")
        tensors[name] = tensor
    return tensors, metadata


def _bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's own memory, `[nbytes]`."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
