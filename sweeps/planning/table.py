"""A plan as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sweeps.planning.records import Cost, Foresight, Plan
from sweeps.words import duration, human

T = TypeVar("T", int, float)


def render(plan: Plan) -> Group:
    """Tables of sizes and domains, a summary, what is left out, warnings."""
    shapes = table(
        f"{plan.sweep}: sizes", *("size", "params", "non-emb.", "matmul", "layers", "heads", "d_ff", "peak LR", "batch")
    )
    runs = table(
        f"{plan.runs} runs, {plan.trunks} trunks, {plan.segments} segments",
        *("size", "runs", "tokens a run", "tokens/param", "FLOPs", "tokens/s", "time"),
    )
    for size in plan.sizes:
        shapes.add_row(
            size.size,
            *(human(count) for count in (size.n_params, size.n_params_non_embedding, size.n_params_matmul)),
            *(str(count) for count in (size.n_layers, size.n_heads, size.d_ff)),
            _span(size.peak_lr, lambda lr: f"{lr:.3g}"),
            _span(size.batch_tokens, lambda tokens: f"{tokens:,}"),
        )
        estimated = "" if size.speed_source in ("measured", "finished") else "~"
        runs.add_row(
            size.size,
            str(size.runs),
            _span(size.tokens_range, human),
            _span(size.tokens_per_parameter_range, lambda ratio: f"{ratio:.3g}"),
            f"{size.flops:.2e}",
            "?" if size.tokens_per_second is None else estimated + human(size.tokens_per_second),
            "?" if size.device_seconds is None else estimated + duration(size.device_seconds),
        )
    domains = table("domains, in the longest run", "domain", "weight", "corpus tokens", "tokens drawn", "epochs")
    for domain in plan.domains:
        domains.add_row(
            domain.domain,
            f"{domain.weight:.1%}",
            human(domain.train_tokens),
            human(domain.longest_run_tokens),
            f"{domain.longest_run_epochs:.2f}",
        )
    lines = [Text(line) for line in _summary(plan)]
    lines += [Text(f"left out  {cell.name}: {cell.reason}", style="dim") for cell in plan.left_out]
    lines += [Text(f"warning   {warning.message}", style="yellow") for warning in plan.warnings]
    parts = [_parts(plan)] if len(plan.parts) > 1 else []
    layouts = [_layouts(plan)] if plan.cost is not None else []
    return Group(shapes, runs, *parts, *layouts, domains, *lines)


def _parts(plan: Plan) -> Table:
    """What the design unites."""
    found = table("parts of the design", "part", "runs", "shared", "left out")
    for part in plan.parts:
        found.add_row(part.description, str(part.runs), str(part.shared_runs), str(part.left_out))
    return found


def _layouts(plan: Plan) -> Table:
    """How each size lies on the GPUs."""
    found = table(f"on {plan.place}", "size", "memory a run", "layout")
    found.columns[-1].justify = "left"
    found.columns[-1].no_wrap = False
    for size in plan.sizes:
        style = "" if size.fits else "bold red"
        found.add_row(size.size, f"{human(size.memory_bytes)}B", Text(size.layout or "", style=style))
    return found


def table(title: str, *headings: str) -> Table:
    """Numbers to the right, the first column to the left."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return made


def _summary(plan: Plan) -> list[str]:
    memory = max((size.memory_bytes for size in plan.sizes), default=0)
    time = "unknown: no measured speed of this machine"
    if plan.wall_seconds is not None and plan.device_seconds is not None:
        busy = "" if plan.utilisation is None else f", {plan.utilisation:.0%} of {plan.place} in use"
        chain = "" if plan.chain_seconds is None else f"; no cluster ends it before {duration(plan.chain_seconds)}"
        time = (
            f"{duration(plan.wall_seconds)} with {plan.slots} at once at most{busy}{chain} "
            f"({duration(plan.device_seconds)} of training steps in all; start-up, validation and checkpoints come on top)"
        )
    return [
        f"design    {plan.design}",
        f"recipe    {plan.recipe}, {plan.schedule}",
        f"step      {_step(plan)}",
        f"compute   {plan.flops:.3g} FLOPs, {human(plan.trained_tokens)} tokens trained",
        f"speeds    {plan.speeds[0]}",
        *(f"          {line}" for line in plan.speeds[1:]),
        *(f"packing   {line}" for line in plan.packing),
        f"time      {time}",
        *([] if plan.cost is None else _cost(plan.cost)),
        f"memory    up to {human(memory)}B a run; checkpoints {human(plan.checkpoint_bytes)}B on disk",
        *([] if plan.foresight is None else _foresight(plan.foresight)),
    ]


def _cost(cost: Cost) -> list[str]:
    if cost.gpu_hours is None or cost.held_gpu_hours is None:
        return ["cost      unknown without the time"]
    hours = f"{cost.gpu_hours:,.4g} GPU-hours in use, {cost.held_gpu_hours:,.4g} held until the last run ends"
    lines = [f"GPUs      {cost.nodes}: {hours}"]
    if cost.usd is None or cost.usd_busy is None:
        lines.append(f"cost      no list price of {cost.device} is known: --price-per-hour gives it")
    else:
        lines.append(
            f"cost      ${cost.usd:,.2f} for the held hours, ${cost.usd_busy:,.2f} for those in use, at "
            f"${cost.usd_per_gpu_hour:g} a GPU-hour ({cost.price_source})"
        )
    return [*lines, f"energy    {cost.energy_kwh:,.4g} kWh: {cost.energy_assumption}"]


def _foresight(seen: Foresight) -> list[str]:
    size = interval(seen.n_params, seen.n_params_ci95)
    tokens = interval(seen.n_tokens, seen.n_tokens_ci95)
    times = ""
    if seen.target_flops is not None:
        times = f", {seen.target_flops / seen.longest_run_flops:.3g} times the longest run's"
    return [
        f"a fit     of these {seen.fitted_runs} runs would tell N* {size} and D* {tokens} at {target(seen)}{times}",
        *(
            f"          these runs cannot tell the law from one with {direction}: their losses would be the same"
            for direction in seen.unidentified
        ),
        f"          {seen.assumptions}",
    ]


def target(seen: Foresight) -> str:
    """`1e+21 FLOPs`, or the loss."""
    if seen.target_loss is not None:
        return f"a loss of {seen.target_loss:g} nats a token"
    return f"{seen.target_flops:.3g} FLOPs"


def interval(value: float, ci95: tuple[float, float] | None) -> str:
    return f"{human(value)} (unbounded)" if ci95 is None else f"{human(value)} ({human(ci95[0])} - {human(ci95[1])})"


def _step(plan: Plan) -> str:
    """How a step is computed, as far as the sweep decides it."""
    names = [size.size for size in plan.sizes]
    parts = [plan.dtype, "eager"]
    if plan.compiled:
        parts[1] = "compiled" if plan.compiled == names else f"compiled for {', '.join(plan.compiled)}"
    if plan.micro_batch is not None:
        parts.append(f"at most {plan.micro_batch} sequences at once")
    if plan.activation_checkpointing != "none":
        parts.append(f"{plan.activation_checkpointing} activation checkpointing")
    if plan.skip_sigma is not None:
        parts.append(f"updates beyond {plan.skip_sigma:g} sigma left out")
    return ", ".join(parts)


def _span(values: Sequence[T], show: Callable[[T], str]) -> str:
    low, high = show(values[0]), show(values[-1])
    return low if low == high else f"{low} - {high}"
