"""Bytes that a piece of code holds, from torch's own allocator: every allocation and release, a kernel's scratch included."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile


class Allocations(NamedTuple):
    """What one call allocated on the CPU, beyond what was there before it."""

    peak_bytes: int
    """Most held at any moment."""
    largest_bytes: int
    """The largest single allocation."""
    held_bytes: int
    """Still held at its end, by what it returned: of a loss, its whole graph."""


def count_allocations(function: Callable[[], Any]) -> Allocations:
    """Call a function once under torch's profiler and add up its memory events. Scratch outside torch (oneDNN) isn't seen.

    On one thread: the attention kernel holds scratch for each.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()  # garbage of before is not to be released within
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    torch.set_num_threads(threads)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    del result  # what it holds was to be released after the events were counted
    return Allocations(
        peak_bytes=max(accumulate(changes), default=0), largest_bytes=max(changes, default=0), held_bytes=sum(changes)
    )
