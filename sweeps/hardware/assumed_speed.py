"""How fast a GPU is taken to train a shape where nothing was measured: a share of its peak, and the launches of a step.

A step's operations wait for two things. The GPU computes its FLOPs at a share of the peak that published runs reach; and a
process of eager PyTorch needs some microseconds to launch each operation, which is all that small models wait for. The two are
added, though on a good day they overlap: small models come out slower than they may be, large ones as published.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama.accelerators import Accelerator
from llama.accounting import training_flops_per_token
from llama.config import ActivationCheckpointing
from sweeps.hardware.calibration import TrainedShape

#: Share of the peak that a busy GPU reaches.
MFU = 0.40
MFU_SOURCE = (
    "published runs reach 37 % (nanoGPT 124M, A100), 41 and 46 % (nanochat d12, d18, H100), 49 % (prime 1B, H100)"
)

#: Operations of one pass over a micro-batch, forward, backward and loss, as counted in `llama.trainer`'s own step in bfloat16
#: (torch's dispatcher, views left out: 270 at two layers, 462 at four).
OPERATIONS_A_LAYER = 96
OPERATIONS_BESIDES = 78

#: Of eager PyTorch, Python and autograd included; not measured on a GPU here.
SECONDS_AN_OPERATION = 10e-6

#: FLOPs of a step over those that are counted: `full` computes about a quarter again (docs/memory.md).
_RECOMPUTED: dict[ActivationCheckpointing, float] = {"none": 1.0, "selective": 1.0, "full": 1.25}


@dataclass(frozen=True, kw_only=True)
class AssumedSpeed:
    """The speed of one run that has whole GPUs to itself, by assumption."""

    accelerator: Accelerator
    dtype: str
    gpus: int = 1
    """Of one run; each takes its part of the batch, at no cost of their talk."""
    mfu: float | None = None
    """A person's own, launches included; None: `MFU` and the launches."""

    @property
    def statement(self) -> str:
        """What is assumed, in one line."""
        peak = f"{self.accelerator.name}'s {self.accelerator.peak_bf16_flops / 1e12:,.0f} TFLOP/s in bf16"
        if self.mfu is not None:
            return f"{self.mfu:.0%} of {peak} at every size, as --mfu says"
        return (
            f"{MFU:.0%} of {peak} ({MFU_SOURCE}), and {SECONDS_AN_OPERATION * 1e6:.0f} us to launch each of a step's "
            f"{OPERATIONS_A_LAYER} operations a layer and {OPERATIONS_BESIDES} besides; --mfu sets another"
        )

    def tokens_per_second(self, shape: TrainedShape) -> float | None:
        """None in float32, whose peak is not in the table."""
        if self.dtype != "bfloat16":
            return None
        batch_tokens = shape.batch_sequences * shape.model.context_length
        return batch_tokens / (self.busy_seconds(shape) + self._launch_seconds(shape))

    def busy_seconds(self, shape: TrainedShape) -> float:
        """Of a step, those in which a GPU computes."""
        flops = training_flops_per_token(shape.model) * shape.batch_sequences * shape.model.context_length
        if self.mfu is not None:
            return flops / (self.accelerator.peak_bf16_flops * self.gpus * self.mfu)
        done = flops * _RECOMPUTED[shape.activation_checkpointing]
        return done / (self.accelerator.peak_bf16_flops * self.gpus * MFU)

    def _launch_seconds(self, shape: TrainedShape) -> float:
        """Of a step. Recomputation launches no fewer, and is left out."""
        if self.mfu is not None:
            return 0.0
        passes = -(-shape.batch_sequences // (shape.micro_batch_sequences * self.gpus))
        operations = passes * (OPERATIONS_A_LAYER * shape.model.n_layers + OPERATIONS_BESIDES)
        return operations * SECONDS_AN_OPERATION
