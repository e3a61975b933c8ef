"""Batches of the coming steps, made while the step at hand is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


def default_data_workers(device: torch.device) -> int:
    """Threads that make batches, where the caller names no number."""
    # On a CPU making a batch took 0.1 to 0.4 % of a step (width 128, 1,024 to 256 tokens), and a thread would take the very
    # cores that compute. A GPU's host thread should do nothing but launch kernels; what a worker gains there is not measured.
    return 1 if device.type == "cuda" else 0


@contextmanager
def prefetch(make: Callable[[int], T], steps: range, *, workers: int) -> Iterator[Iterator[T]]:
    """`make(step)` for each step, in order, by `workers` threads that run at most `workers + 1` steps ahead; 0 makes each as
    it is asked for. What `make` raises is raised where its batch is asked for. No thread outlives the `with` block.
    """
    if workers == 0:
        yield map(make, steps)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        yield _in_order(pool, make, steps, ahead=workers + 1)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, make: Callable[[int], T], steps: range, *, ahead: int) -> Iterator[T]:
    coming: deque[Future[T]] = deque(pool.submit(make, step) for step in steps[:ahead])
    for step in steps[ahead:]:
        batch = coming.popleft().result()
        coming.append(pool.submit(make, step))
        yield batch
    while coming:
        yield coming.popleft().result()
