"""What a plan holds: typed, so that it can be kept with the sweep and held against what happened."""

from __future__ import annotations

from typing import Literal

from llama.records import Record
from sweeps.designs.budgets import DesignKind
from sweeps.hardware.calibration import SpeedSource


class DesignPart(Record):
    """One part of `budgets`."""

    design: DesignKind
    description: str
    """`isoFLOP profiles: 2 sizes at 1e+11 to 4e+11 FLOPs (3 budgets)`."""
    runs: int
    shared_runs: int
    """Of them, those that another part wants too: they are trained once."""
    left_out: int
    """Cells of it that no part runs."""


class SizePlan(Record):
    """One model size over all its budgets, seeds and learning rates."""

    size: str
    runs: int
    n_params: int
    n_params_non_embedding: int
    n_params_matmul: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    peak_lr: list[float]
    """Ascending; one a learning-rate multiplier, or a budget where the rule takes the run's own tokens."""
    batch_tokens: list[int]
    """Ascending; more than one where the rule takes the run's own tokens."""
    tokens_range: tuple[int, int]
    """Shortest and longest run."""
    tokens_per_parameter_range: tuple[float, float]
    """Over `n_params`."""
    trained_tokens: int
    """Over all segments: a trunk counts once, however many branches leave it."""
    flops: float
    device_seconds: float | None
    """Seconds of one run's share of the machine (its cores, or its GPU's part), summed over segments; None if unmeasured."""
    tokens_per_second: float | None
    """Of one run beside the others."""
    speed_source: SpeedSource | None
    memory_bytes: int
    """Of one run, an estimate: with its process on a CPU, with CUDA's context on each of its GPUs."""
    fits: bool
    """Whether its runs have the memory: always true where the place's memory isn't known."""
    runs_a_gpu: int | None
    """Runs that share one; None without GPUs that are known."""
    layout: str | None
    """How its runs lie on GPUs, or what is too large and what would help; None without GPUs that are known."""


class DomainPlan(Record):
    """One domain of the corpus, as the sweep's longest run sees it."""

    domain: str
    weight: float
    train_tokens: int
    """In the corpus."""
    longest_run_tokens: int
    """Drawn from this domain by the longest run."""
    longest_run_epochs: float


class Cost(Record):
    """What the GPUs cost, training steps alone. Hours and what follows from them are None where a speed is not known."""

    device: str
    gpus: int
    nodes: str
    """In words."""
    gpu_hours: float | None
    """In which runs hold a GPU, or their share of one."""
    held_gpu_hours: float | None
    """Of all GPUs until the last run ends."""
    usd_per_gpu_hour: float | None
    price_source: str | None
    usd: float | None
    """Of the held hours: a cluster is paid for while it waits."""
    usd_busy: float | None
    """Of the GPU-hours alone, as if GPUs could be given back the moment that nothing needs them."""
    energy_kwh: float | None
    energy_assumption: str


class Foresight(Record):
    """What a fit of these runs could tell of the optimum at a target, from the design alone."""

    target_flops: float | None
    """Of training, or None for a target loss."""
    target_loss: float | None
    longest_run_flops: float
    """Of the design, to hold the target against."""
    n_params: float
    """The optimum, if the law is as assumed."""
    n_params_ci95: tuple[float, float] | None
    """None where the runs do not identify it."""
    n_tokens: float
    n_tokens_ci95: tuple[float, float] | None
    loss: float
    loss_ci95: tuple[float, float] | None
    fitted_runs: int
    """Held-out runs are none of them."""
    unidentified: list[str]
    """Directions of the law's parameters that no run tells of, in words."""
    assumptions: str


class LeftOutCell(Record):
    name: str
    reason: str


class PlanWarning(Record):
    """Something a person should know before spending. The code is stable, the message is for reading."""

    code: Literal[
        "batch",
        "epochs",
        "horizon",
        "cooldown",
        "tuned",
        "empty_size",
        "identifiability",
        "memory",
        "validation",
        "calibration",
        "foresight",
        "gpus",
    ]
    message: str


class Plan(Record):
    """The whole sweep."""

    sweep: str
    sweep_id: str
    design: str
    """In words."""
    parts: list[DesignPart]
    """Of `budgets`."""
    recipe: str
    schedule: Literal["wsd", "cosine"]
    dtype: str
    compiled: list[str]
    """Sizes whose runs are compiled."""
    micro_batch: int | None
    """Sequences that go through the model at once, at most; None: the batch."""
    activation_checkpointing: str
    skip_sigma: float | None
    runs: int
    """Without trunks."""
    trunks: int
    segments: int
    trained_tokens: int
    flops: float
    slots: int
    """Runs that go side by side, at most."""
    place: str
    """`64xH100`, `2 cores of <processor>`."""
    device_seconds: float | None
    wall_seconds: float | None
    """By the launcher's own schedule, longest path first; None where a speed is missing."""
    chain_seconds: float | None
    """Of the longest trunk with its last branch, or lone run: no cluster ends the sweep sooner."""
    utilisation: float | None
    """Share of the place's GPUs, or cores, that runs hold until the last one ends."""
    speeds: list[str]
    """Where the speeds come from, in words."""
    cost: Cost | None
    """None without GPUs that are known."""
    checkpoint_bytes: int
    """On disk at the end, at most: every segment's last checkpoint, and of each run one before its last. A run that trains has
    one more, as it is written.
    """
    sizes: list[SizePlan]
    domains: list[DomainPlan]
    left_out: list[LeftOutCell]
    warnings: list[PlanWarning]
    packing: list[str]
    """What was measured of runs that share a device, a line a size; empty without a measurement."""
    foresight: Foresight | None = None
    """None where it was not asked, or where a fit of these runs could tell nothing, as a warning then says."""

    def with_foresight(self, seen: Foresight | PlanWarning) -> Plan:
        """What `foresee` says, which plans that are compared need each other for."""
        if isinstance(seen, PlanWarning):
            return self.model_copy(update={"warnings": [*self.warnings, seen]})
        return self.model_copy(update={"foresight": seen})
