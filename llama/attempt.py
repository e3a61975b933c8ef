"""One attempt at a segment of a run: what its caller asks for, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llama.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A run to train, where, how far and with what. Beside `config` and `until_step` only `threads` and the kind of
    device, by the order of sums, change a bit of what comes out.
    """

    config: RunConfig
    run_folder: Path
    parent_folder: Path | None
    """The trunk's, for a branch."""
    until_step: int
    number: int
    """Counts the attempts at a segment from 1."""
    threads: int
    """Cores that this process was given; noted for the run's account of cost, as is its share of a GPU."""
    gpu_share: float
    data_workers: int
    """Threads that make the batches of coming steps."""
    checkpoint_seconds: float
    """From one checkpoint to the next."""
