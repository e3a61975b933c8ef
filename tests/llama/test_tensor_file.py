"""Tensor files: the format that the safetensors library reads, the same bytes for the same contents, and nothing held twice."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from llama.tensor_file import read_tensors, write_tensors

NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__")


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = torch.randint(-(2**40), 2**40, shape, generator=generator)
    values = values if draw(st.booleans()) else values / 3.0
    return values.t() if values.dim() == 2 else values  # not contiguous


@given(contents=st.dictionaries(NAMES, tensors(), max_size=5), metadata=st.dictionaries(NAMES, st.text(max_size=9)))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_what_the_library_reads_and_what_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "file.safetensors"
    sha256 = write_tensors(path, contents, metadata)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, framework="pt") as library:
        assert (library.metadata() or {}) == metadata
    with open(path, "rb") as file:
        ours, found = read_tensors(file)
    assert found == metadata
    for read in (ours, load(path.read_bytes())):
        assert read.keys() == contents.keys()
        for name, tensor in contents.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)
    assert write_tensors(path, dict(reversed(contents.items())), metadata) == sha256


def test_a_file_of_other_types_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(save({"x": torch.zeros(3, dtype=torch.bfloat16)}))
    with open(path, "rb") as file, pytest.raises(ValueError, match="x is of type BF16"):
        read_tensors(file)


def test_nothing_is_held_twice(tmp_path: Path) -> None:
    """Python's allocator, which torch's own tensors don't come from, never sees the content."""
    path, tensor = tmp_path / "file.safetensors", torch.zeros(1 << 20)
    tracemalloc.start()
    try:
        write_tensors(path, {"x": tensor}, {})
        with open(path, "rb") as file:
            read_tensors(file)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < tensor.nbytes / 4
