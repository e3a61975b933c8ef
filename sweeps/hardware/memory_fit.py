"""Whether a run fits the GPUs it is given, how runs lie on them, and what would help one that is too large."""

from __future__ import annotations

import math
from typing import NamedTuple

from llama.accelerators import Accelerator
from llama.accounting import count_parameters
from llama.config import ActivationCheckpointing, RunConfig
from llama.memory import training_bytes

#: What a process holds of a GPU before it computes anything: CUDA's context and its libraries' workspaces. Not measured here.
CONTEXT_BYTES = 600_000_000

#: Float32 weights, gradients and AdamW's two moments.
STATE_BYTES_A_PARAMETER = 16


class Fit(NamedTuple):
    """One size on one kind of GPU."""

    memory_bytes: int
    """That one run holds of each of its GPUs."""
    fits: bool
    layout: str | None
    """How its runs lie on GPUs, or what is too large and what would help; None on a CPU."""


def fit_on(accelerator: Accelerator, config: RunConfig, gpus: float) -> Fit:
    """`gpus` are those of one run: below 1 several share one, above it they divide the run evenly: weights, gradients and
    optimizer state sharded, the batch split (ZeRO-3 or FSDP, Rajbhandari et al. 2020; what they gather is not counted).
    """
    shards = max(1, int(gpus))
    memory = (
        CONTEXT_BYTES + _step_bytes(config, config.micro_batch_sequences, config.activation_checkpointing) // shards
    )
    runs_a_gpu = max(1, int(1 / gpus))
    if runs_a_gpu * memory <= accelerator.memory_bytes:
        return Fit(memory, True, f"{shards} GPUs a run" if shards > 1 else f"{runs_a_gpu} a GPU")
    if runs_a_gpu > 1 and memory <= accelerator.memory_bytes:
        most = accelerator.memory_bytes // memory
        return Fit(memory, False, f"{runs_a_gpu} a GPU are too many, {most} fit: resources.gpus: {1 / most:.2g}")
    return Fit(memory, False, f"too large: {_remedy(accelerator, config, shards)}")


def _remedy(accelerator: Accelerator, config: RunConfig, shards: int) -> str:
    """The smallest change of the sweep that makes it fit: smaller micro-batches before recomputation, which costs time, before
    more GPUs.
    """
    room = (accelerator.memory_bytes - CONTEXT_BYTES) * shards
    batch = config.recipe.batch_sequences
    kinds: list[ActivationCheckpointing] = ["none", "selective", "full"]
    for kind in kinds[kinds.index(config.activation_checkpointing) :]:
        for micro in (size for size in range(config.micro_batch_sequences, 0, -1) if batch % size == 0):
            if _step_bytes(config, micro, kind) <= room:
                changes = [f"micro_batch: {micro}"] if micro != config.micro_batch_sequences else []
                changes += [f"activation_checkpointing: {kind}"] if kind != config.activation_checkpointing else []
                return f"fits with {', '.join(changes)}"
    state = STATE_BYTES_A_PARAMETER * count_parameters(config.model).n_params
    beside = max(0, _step_bytes(config, 1, "full") - state)  # of one sequence, on each GPU
    free = accelerator.memory_bytes - CONTEXT_BYTES - beside
    return f"needs {math.ceil(state / free)} GPUs a run" if free > 0 else "no number of these GPUs holds it"


def _step_bytes(config: RunConfig, micro_batch_sequences: int, kind: ActivationCheckpointing) -> int:
    return training_bytes(
        config.model,
        batch_sequences=config.recipe.batch_sequences,
        micro_batch_sequences=micro_batch_sequences,
        dtype=config.dtype,
        activation_checkpointing=kind,
        device="cuda",
    )
