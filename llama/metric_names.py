"""Names of metrics, tags and params that the trainer, the MLflow mirror and analysis share."""

from __future__ import annotations

TRAIN_LOSS = "train/loss"
GRAD_NORM = "train/grad_norm"
LEARNING_RATE = "train/lr"
SKIPPED_UPDATES = "train/skipped_updates"
"""Updates skipped as spikes since the run's first step, its trunk's included; absent where the recipe skips none."""
VAL_LOSS = "val/loss"
VAL_BPB = "val/bpb"
TOKENS_PER_SECOND = "throughput/tokens_per_second"
MFU = "throughput/mfu"
FLOPS = "progress/flops"
UNIQUE_TOKENS = "data/unique_tokens"
REPETITIONS = "data/repetitions"
"""Tokens seen over unique ones."""

# What the run's process and machine do, under MLflow's own names where it has one: its UI shows `system/...` on a page of its
# own. A process that uses two cores whole is at 200 %. `gpu_0` is the GPU that the run trains on, whichever of the machine's.
CPU_PERCENT = "system/cpu_utilization_percentage"
MEMORY_MEGABYTES = "system/system_memory_usage_megabytes"
MEMORY_PERCENT = "system/system_memory_usage_percentage"
DISK_PERCENT = "system/disk_usage_percentage"
DISK_AVAILABLE_MEGABYTES = "system/disk_available_megabytes"
PROCESS_CPU_PERCENT = "system/process_cpu_percentage"
PROCESS_MEMORY_MEGABYTES = "system/process_memory_megabytes"
"""Resident memory."""
GPU_PERCENT = "system/gpu_0_utilization_percentage"
GPU_MEMORY_MEGABYTES = "system/gpu_0_memory_usage_megabytes"
GPU_MEMORY_PERCENT = "system/gpu_0_memory_usage_percentage"
GPU_POWER_WATTS = "system/gpu_0_power_usage_watts"

# In MLflow alone, where sweeps.tracking writes and analysis reads them. Params are named as the fields of RunConfig's parts
# (`d_model`, `peak_lr`, `seed` ...) and of ParameterCounts.

TAG_SWEEP_ID = "sweep.id"
TAG_RUN_KEY = "run.key"
TAG_RUN_KIND = "run.kind"
"""`sweep` for the parent, else `trunk`, `branch` or `run`."""
TAG_TRUNK = "run.trunk"
"""On a branch: the key of the trunk it leaves."""
TAG_HELD_OUT = "run.held_out"
"""`true` or `false`."""
TAG_SIZE = "size"
"""As in the run's name: `w32`."""
TAG_BUDGET = "budget"
"""As in the run's name: `C3.2e11`; absent on a trunk."""
TAG_FLOPS_BUDGET = "flops_budget"
"""The declared budget as Python prints the float; absent where the sweep declares none."""
TAG_OUTCOME = "outcome"
"""A RunStatus, `finished` for a trunk as long as its branches need; MLflow's own status has no word for a diverged run."""
TAG_REASON = "outcome.reason"
"""Why a run diverged or failed; empty where it did neither."""
PARAM_TOKENS = "n_tokens"
PARAM_FLOPS = "flops"
"""Training FLOPs of the whole run, a branch's trunk included; absent on a trunk, as `n_tokens` is."""
TRAINING_SECONDS = "final/training_seconds"
TRAINING_THREADS = "final/threads"
GPU_SHARE = "final/gpu_share"


def val_domain_loss(domain: str) -> str:
    return f"val/{domain}/loss"


def val_domain_bpb(domain: str) -> str:
    return f"val/{domain}/bpb"


def epochs_of(domain: str) -> str:
    """Metric of a run's passes over a domain."""
    return f"data/epochs/{domain}"


def inference_metric(field: str, *, saturated: bool) -> str:
    """Metric of one InferencePoint field at batch 1 or at saturation; `batch` is a field too."""
    return f"inference/{'saturated' if saturated else 'batch_1'}/{field}"


def inference_tag(field: str) -> str:
    """Tag of an InferenceCost field that says on what and how it was measured: device, dtype, threads, prompt_tokens ..."""
    return f"inference.{field}"
