"""What a sweep would take, before anything is spent. Torch-free; `sweeps.planning.table` shows it to a person.

Seconds come from speeds that were measured, or are assumed of GPUs that are known, or are absent. They cover training steps;
starting processes, validation and checkpoints come on top.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llama.accounting import checkpoint_bytes, count_parameters
from llama.config import RunConfig
from llama.data.repetition import repetition
from llama.sharing import SharedSpeed
from sweeps.designs.design import Design, PlannedRun
from sweeps.designs.segments import Segment
from sweeps.hardware.calibration import SpeedSource, TrainedShape
from sweeps.hardware.memory_fit import GpuFit, fit_on, step_bytes
from sweeps.hardware.packing import packing_words
from sweeps.hardware.place import Place
from sweeps.hardware.speeds import Speeds
from sweeps.planning.parts import design_in_words, design_parts
from sweeps.planning.records import Cost, DomainPlan, LeftOutCell, Plan, SizePlan
from sweeps.planning.schedule import Schedule, capacity, taken
from sweeps.planning.warnings import gpus_warnings, memory_warnings, warnings_of

#: A worker process with torch loaded and nothing trained, measured on Linux.
PROCESS_BYTES = 456_000_000

#: Of a data centre: what it draws over what its machines draw (Touvron et al. 2023, table 15).
POWER_USAGE_EFFECTIVENESS = 1.1


def make_plan(
    design: Design,
    speeds: Speeds,
    place: Place,
    schedule: Schedule,
    *,
    packed: Mapping[str, Sequence[SharedSpeed]],
    usd_per_gpu_hour: float | None = None,
) -> Plan:
    """Count a design that `schedule` has timed at `place`. `packed` is what was measured of a size's runs side by side; a price
    is instead of the list's.

    Raises:
        UserError: the corpus lacks a domain of the spec, or has too little of it for one sequence.
    """
    spec = design.spec
    finals = [run for run in design.runs if not run.record.is_trunk]
    timed = schedule.slots is not None
    by_size = _by_size(design)
    sizes = [_size_plan(size, by_size[size], place, schedule) for size in design.models if by_size[size].finals]
    domains = _domain_plans(design, finals)
    slots, device = run_slots(place, schedule), "GPU" if place.gpus else "machine"
    warnings = warnings_of(design, domains, speeds.calibration, timed=timed)
    return Plan(
        sweep=spec.name,
        sweep_id=spec.digest[:16],
        design=design_in_words(design),
        parts=design_parts(design),
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
        trained_tokens=sum(segment.tokens for segment in design.segments),
        flops=sum(segment.flops for segment in design.segments),
        slots=slots,
        place=_in_words(place),
        device_seconds=sum(schedule.seconds.values()) if timed else None,
        wall_seconds=schedule.wall_seconds,
        chain_seconds=schedule.chain_seconds,
        utilisation=_utilisation(design, schedule),
        speeds=_speeds_in_words(design, speeds),
        cost=_cost(design, place, schedule, usd_per_gpu_hour),
        checkpoint_bytes=sum(
            checkpoint_bytes(design.models[size]) * (len(parts.segments) + parts.runs)
            for size, parts in by_size.items()
        ),
        sizes=sizes,
        domains=domains,
        left_out=[LeftOutCell(name=name, reason=reason) for name, reason, _ in design.left_out],
        warnings=[
            *warnings,
            *memory_warnings(sizes, slots, place.memory_bytes),
            *gpus_warnings(design, max(one.gpus for one in schedule.resources.values())),
        ],
        packing=[f"{size}: {packing_words(speeds, device)}" for size, speeds in packed.items()],
    )


def run_slots(place: Place, schedule: Schedule) -> int:
    """How many runs go side by side, at most: of the size that takes least."""
    least = min(schedule.resources.values(), key=lambda one: (one.gpus, one.cpus))
    by_node = (
        int(min(node.cpus // least.cpus, round(node.gpus / least.gpus, 6) if least.gpus else node.cpus))
        for node in place.nodes
    )
    return max(1, sum(by_node))


def _utilisation(design: Design, schedule: Schedule) -> float | None:
    wall = schedule.wall_seconds
    return None if not wall else _held_seconds(design, schedule) / (capacity(schedule.nodes) * wall)


def _held_seconds(design: Design, schedule: Schedule) -> float:
    """Seconds times what runs take of the place's scarce kind: GPU-seconds, or core-seconds."""
    sizes = {run.record.key: run.size for run in design.runs}
    held = {size: taken(resources, schedule.nodes) for size, resources in schedule.resources.items()}
    return sum(schedule.seconds[segment.id] * held[sizes[segment.run_key]] for segment in design.segments)


def _cost(design: Design, place: Place, schedule: Schedule, usd_per_gpu_hour: float | None) -> Cost | None:
    accelerator, wall = place.accelerator, schedule.wall_seconds
    if accelerator is None:
        return None
    busy = None if wall is None else _held_seconds(design, schedule) / 3600
    held = None if wall is None else place.gpus * wall / 3600
    price, source = usd_per_gpu_hour, "as --price-per-hour says"
    if price is None and accelerator.price is not None:
        price, source = accelerator.price.usd_per_hour, accelerator.price.source
    kilowatts = accelerator.power_watts / 1000 * POWER_USAGE_EFFECTIVENESS
    return Cost(
        device=accelerator.name,
        gpus=place.gpus,
        nodes=place.cluster.layout if place.cluster is not None else _in_words(place),
        gpu_hours=busy,
        held_gpu_hours=held,
        usd_per_gpu_hour=price,
        price_source=None if price is None else source,
        usd=None if price is None or held is None else price * held,
        usd_busy=None if price is None or busy is None else price * busy,
        energy_kwh=None if busy is None else busy * kilowatts,
        energy_assumption=f"{accelerator.power_watts:g} W a GPU in use, the board's most, x {POWER_USAGE_EFFECTIVENESS:g} for "
        "the data centre (as Touvron et al. 2023); idle GPUs are not counted",
    )


def _in_words(place: Place) -> str:
    if place.cluster is not None:
        return place.cluster.name
    count = f"{place.gpus} GPU{'s' if place.gpus > 1 else ''}" if place.gpus else f"{place.cpus} cores"
    return f"{count} of {place.machine.name}"


_SOURCES: dict[SpeedSource | None, str] = {
    "finished": "from finished runs",
    "measured": "measured alone",
    "interpolated": "between measured ones",
    "extrapolated": "beyond measured ones",
    "assumed": "assumed",
    None: "unknown",
}


def _speeds_in_words(design: Design, speeds: Speeds) -> list[str]:
    counts = speeds.sources(dict.fromkeys(TrainedShape.of(run.config) for run in design.runs))
    parts = [f"{counts[source]} {words}" for source, words in _SOURCES.items() if source in counts]
    lines = [f"of {sum(counts.values())} shapes: {', '.join(parts)}"]
    if speeds.finished.runs and counts.keys() & {"finished", "interpolated", "extrapolated"}:
        lines[0] += f" ({speeds.finished.runs} finished runs)"
    if "assumed" in counts and speeds.assumed is not None:
        lines.append(f"assumed: {speeds.assumed.statement}")
    return lines


class _Parts(NamedTuple):
    """What a size has in a design."""

    finals: list[PlannedRun]
    segments: list[Segment]
    runs: int
    """Trunks included."""


def _by_size(design: Design) -> dict[str, _Parts]:
    sizes = {run.record.key: run.size for run in design.runs}
    finals: defaultdict[str, list[PlannedRun]] = defaultdict(list)
    segments: defaultdict[str, list[Segment]] = defaultdict(list)
    for run in design.runs:
        if not run.record.is_trunk:
            finals[run.size].append(run)
    for segment in design.segments:
        segments[sizes[segment.run_key]].append(segment)
    runs = Counter(sizes.values())
    return {size: _Parts(finals[size], segments[size], runs[size]) for size in design.models}


def _size_plan(size: str, parts: _Parts, place: Place, schedule: Schedule) -> SizePlan:
    runs, segments = parts.finals, parts.segments
    model = runs[0].config.model
    counts, tokens = count_parameters(model), [run.tokens for run in runs]
    timed = all(segment.id in schedule.seconds for segment in segments)
    batches = sorted({run.config.recipe.batch_sequences for run in runs})
    speed = schedule.speeds[TrainedShape.of(max(runs, key=lambda run: run.config.recipe.batch_sequences).config)]
    configs = list({TrainedShape.of(run.config): run.config for run in runs}.values())
    fit = _largest_fit(configs, place, schedule.resources[size].gpus)
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
        trained_tokens=sum(segment.tokens for segment in segments),
        flops=sum(segment.flops for segment in segments),
        device_seconds=sum(schedule.seconds[segment.id] for segment in segments) if timed else None,
        tokens_per_second=speed.tokens_per_second if speed else None,
        speed_source=speed.source if speed else None,
        memory_bytes=_process_bytes(configs, place) if fit is None else fit.memory_bytes,
        fits=fit is None or fit.fits,
        runs_a_gpu=None if fit is None else fit.runs_a_gpu,
        layout=None if fit is None else fit.layout,
    )


def _largest_fit(configs: Sequence[RunConfig], place: Place, gpus: float) -> GpuFit | None:
    """Of the run that holds most; None without GPUs that are known."""
    if place.accelerator is None:
        return None
    return max((fit_on(place.accelerator, config, gpus) for config in configs), key=lambda fit: fit.memory_bytes)


def _process_bytes(configs: Sequence[RunConfig], place: Place) -> int:
    """Of the run that holds most, its process included."""
    return PROCESS_BYTES + max(step_bytes(config, place.machine.device) for config in configs)


def _domain_plans(design: Design, finals: Sequence[PlannedRun]) -> list[DomainPlan]:
    longest = max((run.tokens for run in finals), default=0)
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
