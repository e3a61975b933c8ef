"""Whether a run fits the GPUs it is given, how runs lie on them, and what would help one that is too large."""

from __future__ import annotations

import math
from typing import NamedTuple

from llama.accelerators import Accelerator
from llama.accounting import count_parameters
from llama.config import ActivationCheckpointing, Device, RunConfig
from llama.memory import training_bytes
from sweeps.hardware.packing import runs_a_gpu

#: What a process holds of a GPU before it computes anything: CUDA's context and its libraries' workspaces. Not measured here.
CONTEXT_BYTES = 600_000_000

#: Float32 weights, gradients and AdamW's two moments.
STATE_BYTES_A_PARAMETER = 16


class GpuFit(NamedTuple):
    """One size on one kind of GPU."""

    memory_bytes: int
    """That one run holds of each of its GPUs."""
    fits: bool
    runs_a_gpu: int
    """As asked, whether or not they fit."""
    layout: str
    """How its runs lie on GPUs, or what is too large and what would help."""


def fit_on(accelerator: Accelerator, config: RunConfig, gpus: float) -> GpuFit:
    """`gpus` are those of one run: below 1 several share one, above it they divide the run evenly: weights, gradients and
    optimizer state sharded, the batch split (ZeRO-3 or FSDP, Rajbhandari et al. 2020; what they gather is not counted).
    """
    shards = max(1, int(gpus))
    memory = CONTEXT_BYTES + step_bytes(config, "cuda") // shards
    runs = runs_a_gpu(gpus)
    if runs * memory <= accelerator.memory_bytes:
        return GpuFit(memory, True, runs, f"{shards} GPUs a run" if shards > 1 else f"{runs} a GPU")
    if runs > 1 and memory <= accelerator.memory_bytes:
        most = accelerator.memory_bytes // memory
        layout = f"{runs} a GPU are too many, {most} fit: resources.gpus: {1 / most:.2g}"
        return GpuFit(memory, False, runs, layout)
    return GpuFit(memory, False, runs, f"too large: {_remedy(accelerator, config, shards)}")


def step_bytes(
    config: RunConfig,
    device: Device,
    *,
    micro_batch_sequences: int | None = None,
    activation_checkpointing: ActivationCheckpointing | None = None,
) -> int:
    """What one training step of a run holds, an estimate; as configured, or changed."""
    return training_bytes(
        config.model,
        batch_sequences=config.recipe.batch_sequences,
        micro_batch_sequences=micro_batch_sequences or config.micro_batch_sequences,
        dtype=config.dtype,
        activation_checkpointing=activation_checkpointing or config.activation_checkpointing,
        device=device,
    )


def _remedy(accelerator: Accelerator, config: RunConfig, shards: int) -> str:
    """The smallest change of the sweep that makes it fit: smaller micro-batches before recomputation, which costs time, before
    more GPUs.
    """
    room = (accelerator.memory_bytes - CONTEXT_BYTES) * shards
    batch = config.recipe.batch_sequences
    kinds: list[ActivationCheckpointing] = ["none", "selective", "full"]
    for kind in kinds[kinds.index(config.activation_checkpointing) :]:
        for micro in (size for size in range(config.micro_batch_sequences, 0, -1) if batch % size == 0):
            if step_bytes(config, "cuda", micro_batch_sequences=micro, activation_checkpointing=kind) <= room:
                changes = [f"micro_batch: {micro}"] if micro != config.micro_batch_sequences else []
                changes += [f"activation_checkpointing: {kind}"] if kind != config.activation_checkpointing else []
                return f"fits with {', '.join(changes)}"
    state = STATE_BYTES_A_PARAMETER * count_parameters(config.model).n_params
    least = step_bytes(config, "cuda", micro_batch_sequences=1, activation_checkpointing="full")
    beside = max(0, least - state)  # of one sequence, on each GPU
    free = accelerator.memory_bytes - CONTEXT_BYTES - beside
    return f"needs {math.ceil(state / free)} GPUs a run" if free > 0 else "no number of these GPUs holds it"
