"""What a sweep would take, before anything is spent. Torch-free; `sweeps.plan_table` shows it to a person.

Seconds come from measured speeds or are absent. They cover training steps; starting processes, validation and checkpoints
come on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from cluster.executor import Node
from cluster.simulation import simulate
from cluster.task import Task
from llama.accounting import checkpoint_bytes, count_parameters
from llama.config import Device, RunConfig
from llama.data.mixture import EPOCHS_WORTH_NEW, repetition
from llama.memory import training_bytes
from llama.records import Record
from sweeps.calibration import Calibration, Speed, TrainedShape
from sweeps.design import Design, PlannedRun, budget_tokens
from sweeps.segments import Segment

#: The best learning rate falls about as the horizon^-0.3 (Bjorck et al. 2024): four times as long is 1.5 times off.
FAR_BEYOND = 4.0

#: A tuned law's exponents come from the range tried: ten times beyond it an error of 0.1 in one is a quarter of the rate.
FAR_FROM_TUNED = 10.0

#: A worker process with torch loaded and nothing trained, measured on Linux.
PROCESS_BYTES = 400_000_000


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
    speed_source: Literal["measured", "interpolated", "extrapolated"] | None
    memory_bytes: int
    """Of one run, its process included: an estimate."""


class DomainPlan(Record):
    """One domain of the corpus, as the sweep's longest run sees it."""

    domain: str
    weight: float
    train_tokens: int
    """In the corpus."""
    longest_run_tokens: int
    """Drawn from this domain by the longest run."""
    longest_run_epochs: float


class LeftOutCell(Record):
    name: str
    reason: str


class PlanWarning(Record):
    """Something a person should know before spending. The code is stable, the message is for reading."""

    code: Literal["epochs", "horizon", "tuned", "empty_size", "identifiability", "memory", "validation", "calibration"]
    message: str


class Plan(Record):
    """The whole sweep."""

    sweep: str
    sweep_id: str
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
    """Runs that go side by side."""
    device_seconds: float | None
    wall_seconds: float | None
    """By the launcher's own schedule, longest path first; None where a speed is missing."""
    checkpoint_bytes: int
    """On disk at the end, at most: every segment's last checkpoint, and of each run one before its last. A run that trains has
    one more, as it is written.
    """
    sizes: list[SizePlan]
    domains: list[DomainPlan]
    left_out: list[LeftOutCell]
    warnings: list[PlanWarning]


def make_plan(
    design: Design, calibration: Calibration, *, slots: int, device: Device, memory_bytes: int | None = None
) -> Plan:
    """Count and time a design. `slots` is how many runs the machine or cluster takes at once, `device` what each trains on,
    `memory_bytes` what all of them share there, None where it isn't known.

    Raises:
        UserError: the corpus lacks a domain of the spec, or has too little of it for one sequence.
    """
    spec = design.spec
    finals = [run for run in design.runs if not run.record.is_trunk]
    speeds = _speeds(design, calibration)
    seconds: dict[str, float] = {}
    for segment in design.segments:
        speed = speeds[TrainedShape.of(segment.config)]
        if speed is not None:
            seconds[segment.id] = _trained_tokens(segment) / speed.tokens_per_second
    timed = len(seconds) == len(design.segments)
    sizes = [_size_plan(design, size, finals, seconds, speeds, device) for size in design.models]
    domains = _domain_plans(design, finals)
    saved = [segment.config for segment in design.segments] + [run.config for run in design.runs]
    return Plan(
        sweep=spec.name,
        sweep_id=spec.digest[:16],
        recipe=spec.recipe.name,
        schedule=spec.recipe.effective_schedule,
        dtype=design.numerics.dtype,
        compiled=[size for size in design.models if any(run.size == size and run.config.compile for run in finals)],
        micro_batch=spec.micro_batch,
        activation_checkpointing=spec.activation_checkpointing,
        skip_sigma=spec.recipe.skip_sigma,
        runs=len(finals),
        trunks=len(design.runs) - len(finals),
        segments=len(design.segments),
        trained_tokens=sum(_trained_tokens(segment) for segment in design.segments),
        flops=sum(segment.flops for segment in design.segments),
        slots=slots,
        device_seconds=sum(seconds.values()) if timed else None,
        wall_seconds=_wall_seconds(design, seconds, slots) if timed else None,
        checkpoint_bytes=sum(checkpoint_bytes(run.model) for run in saved),
        sizes=[size for size in sizes if size is not None],
        domains=domains,
        left_out=[LeftOutCell(name=name, reason=reason) for name, reason in design.left_out],
        warnings=[
            *_warnings(design, finals, domains, calibration, timed),
            *_memory_warnings([size for size in sizes if size is not None], slots, memory_bytes),
        ],
    )


def _wall_seconds(design: Design, seconds: Mapping[str, float], slots: int) -> float:
    """The end of the schedule that the launcher's own supervisor would make with `slots` equal places."""
    tasks = [
        Task(id=segment.id, function=_train, needs=frozenset(segment.needs), estimated_seconds=seconds[segment.id])
        for segment in design.segments
    ]
    return max(slot.end_seconds for slot in simulate(tasks, [Node(id="all", cpus=slots)]))


def _train(*, attempt: int) -> None:
    """Stands for a segment's training in a simulated schedule, where nothing is called."""


def _speeds(design: Design, calibration: Calibration) -> dict[TrainedShape, Speed | None]:
    return {
        shape: calibration.speed(shape) for shape in {TrainedShape.of(segment.config) for segment in design.segments}
    }


def _trained_tokens(segment: Segment) -> int:
    return (segment.end_step - segment.start_step) * segment.config.batch_tokens


def _run_tokens(run: PlannedRun) -> int:
    assert run.config.tokens is not None  # trunks are no final runs
    return run.config.tokens


def _size_plan(
    design: Design,
    size: str,
    finals: Sequence[PlannedRun],
    seconds: Mapping[str, float],
    speeds: Mapping[TrainedShape, Speed | None],
    device: Device,
) -> SizePlan | None:
    """None for a size without runs."""
    model, runs = design.models[size], [run for run in finals if run.size == size]
    if not runs:
        return None
    counts, tokens = count_parameters(model), [_run_tokens(run) for run in runs]
    segments = [segment for segment in design.segments if segment.config.model == model]
    timed = all(segment.id in seconds for segment in segments)
    batches = sorted({run.config.recipe.batch_sequences for run in runs})
    largest_batch = max(runs, key=lambda run: run.config.recipe.batch_sequences)
    speed = speeds[TrainedShape.of(largest_batch.config)]
    step_bytes = max(_step_bytes(run.config, device) for run in runs)
    return SizePlan(
        size=size,
        runs=len(runs),
        **counts._asdict(),
        d_model=model.d_model,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        d_ff=model.d_ff,
        peak_lr=sorted({run.config.recipe.peak_lr for run in runs}),
        batch_tokens=[batch * model.context_length for batch in batches],
        tokens_range=(min(tokens), max(tokens)),
        tokens_per_parameter_range=(min(tokens) / counts.n_params, max(tokens) / counts.n_params),
        trained_tokens=sum(_trained_tokens(segment) for segment in segments),
        flops=sum(segment.flops for segment in segments),
        device_seconds=sum(seconds[segment.id] for segment in segments) if timed else None,
        tokens_per_second=speed.tokens_per_second if speed else None,
        speed_source=speed.source if speed else None,
        memory_bytes=PROCESS_BYTES + step_bytes,
    )


def _step_bytes(run: RunConfig, device: Device) -> int:
    return training_bytes(
        run.model,
        batch_sequences=run.recipe.batch_sequences,
        micro_batch_sequences=run.micro_batch_sequences,
        dtype=run.dtype,
        activation_checkpointing=run.activation_checkpointing,
        device=device,
    )


def _domain_plans(design: Design, finals: Sequence[PlannedRun]) -> list[DomainPlan]:
    longest = max((_run_tokens(run) for run in finals), default=0)
    weights, train_tokens = design.spec.weights, design.corpus.train_tokens
    context = design.spec.ladder.context_length
    passes = repetition(train_tokens, weights, context_length=context, tokens=longest).epochs
    return [
        DomainPlan(
            domain=domain,
            weight=weight,
            train_tokens=train_tokens[domain],
            longest_run_tokens=round(weight * longest),
            longest_run_epochs=passes[domain],
        )
        for domain, weight in weights.items()
    ]


def _warnings(
    design: Design,
    finals: Sequence[PlannedRun],
    domains: Sequence[DomainPlan],
    calibration: Calibration,
    timed: bool,
) -> list[PlanWarning]:
    spec, found = design.spec, []
    for domain in domains:
        if domain.longest_run_epochs > EPOCHS_WORTH_NEW:
            found.append(
                PlanWarning(
                    code="epochs",
                    message=f"domain {domain.domain}: the longest run reads its {domain.train_tokens:,} tokens "
                    f"{domain.longest_run_epochs:.1f} times; beyond {EPOCHS_WORTH_NEW:.0f} epochs repeated tokens are worth "
                    "less than new ones (Muennighoff et al. 2023): add text, lower its weight, or lower the budgets",
                )
            )
    empty = [size for size in design.models if all(run.size != size for run in finals)]
    if empty:
        found.append(
            PlanWarning(code="empty_size", message=f"no budget is left for {', '.join(empty)}: see what is left out")
        )
    found += _horizon_warnings(design, finals)
    found += _tuned_warnings(design, finals)
    ratios = {round(_run_tokens(run) / count_parameters(run.config.model).n_params, 1) for run in finals}
    if len(finals) > 1 and (len(design.models) - len(empty) < 2 or max(ratios) < 1.5 * min(ratios)):
        found.append(
            PlanWarning(
                code="identifiability",
                message="runs of one size, or at one ratio of tokens to parameters, cannot identify a scaling law: "
                "vary both, for instance with budgets.flops",
            )
        )
    share = spec.evaluation.validation_tokens // len(spec.weights)
    short = [domain for domain in spec.weights if design.corpus.validation_tokens[domain] < share]
    if short:
        found.append(
            PlanWarning(
                code="validation",
                message=f"domain {', '.join(short)} has fewer held-out tokens than its share {share:,} of "
                "evaluation.validation_tokens: raise corpus.held_out_fraction, or ask for fewer",
            )
        )
    if calibration.problem:
        found.append(PlanWarning(code="calibration", message=calibration.problem))
    elif not timed:
        found.append(
            PlanWarning(
                code="calibration", message="no measured speed near every size: --calibrate measures this machine"
            )
        )
    return found


def _memory_warnings(sizes: Sequence[SizePlan], slots: int, memory_bytes: int | None) -> list[PlanWarning]:
    if memory_bytes is None or not sizes:
        return []
    largest = max(sizes, key=lambda size: size.memory_bytes)
    if slots * largest.memory_bytes <= memory_bytes:
        return []
    alone = largest.memory_bytes > memory_bytes
    return [
        PlanWarning(
            code="memory",
            message=f"{'a run' if alone else f'{slots} runs at once'} of {largest.size} take up to "
            f"{(1 if alone else slots) * largest.memory_bytes / 1e9:,.1f} GB of the {memory_bytes / 1e9:,.1f} GB here: lower "
            "micro_batch, set activation_checkpointing: selective, or give a run more resources.cpus, so that fewer go at once",
        )
    ]


def _horizon_warnings(design: Design, finals: Sequence[PlannedRun]) -> list[PlanWarning]:
    """A trunk that runs far beyond the horizon its rule was given has too high a rate at its end."""
    recipe, unit = design.spec.recipe, design.spec.budgets.unit
    if recipe.reference_budget is None:
        return []
    beyond = {
        run.size
        for run in finals
        if _run_tokens(run) > FAR_BEYOND * budget_tokens(unit, recipe.reference_budget, run.config.model)
    }
    if not beyond:
        return []
    sizes = ", ".join(size for size in design.models if size in beyond)
    message = (
        f"budgets over {FAR_BEYOND:g} times recipe.reference_budget {recipe.reference_budget:g} at {sizes}: the learning rate "
        "is set for a much shorter run"
    )
    return [PlanWarning(code="horizon", message=message)]


def _tuned_warnings(design: Design, finals: Sequence[PlannedRun]) -> list[PlanWarning]:
    """A tuned law carried far beyond the sizes and tokens that its study tried."""
    law = design.spec.recipe.tuned
    if law is None:
        return []
    far = {
        run.size
        for run in finals
        if max(law.n.distance(law.size(run.config.model)), law.d.distance(run.config.recipe.reference_tokens))
        > FAR_FROM_TUNED
    }
    if not far:
        return []
    sizes = ", ".join(size for size in design.models if size in far)
    message = (
        f"recipe.tuned comes from {law.n.low:,} to {law.n.high:,} parameters ({law.counting}) and {law.d.low:,} to "
        f"{law.d.high:,} tokens ({law.study}); {sizes}: more than {FAR_FROM_TUNED:g} times beyond"
    )
    return [PlanWarning(code="tuned", message=message)]
