"""Python's garbage collector, kept out of training steps."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collections() -> Iterator[None]:
    """While the block runs nothing is collected but by `gc.collect()`; afterwards collection is on or off as it was before."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what is there by now stays: later collections look at what came since
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
