"""Counts the times that the host reads a tensor's values, and so would wait for a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class HostReads(TorchDispatchMode):
    """Counts operations whose result the host must wait for: values read, and shapes that depend on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name == "index" and any(index is not None and index.dtype == torch.bool for index in args[1])
        if name in self.WAITING or by_mask:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """What the host read from tensors in the block: by operations, and by the methods that copy to the host without one."""

    def noted(name: str, original: Any) -> Any:
        def method(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            mode.seen.append(name)
            return original(tensor, *arguments, **options)

        return method

    mode = HostReads()
    with mode:
        patches = [
            patch.object(torch.Tensor, name, noted(name, getattr(torch.Tensor, name)))
            for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__array__")
        ]
        for one in patches:
            one.start()
        try:
            yield mode.seen
        finally:
            for one in patches:
                one.stop()
