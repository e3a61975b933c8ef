"""Plans beside each other, and a plan beside what happened, as a person reads them in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Group
from rich.text import Text

from sweeps.planning.comparison import PlanComparison
from sweeps.planning.records import Plan
from sweeps.planning.table import interval, table, target
from sweeps.words import duration, human


def side_by_side(plans: Sequence[Plan]) -> Group:
    """A column a plan: what each costs and how long it takes, and what a fit of it could tell."""
    nodes = "" if plans[0].cost is None else f", {plans[0].cost.nodes}"
    found = table(f"on {plans[0].place}{nodes}", "", *(plan.sweep for plan in plans))
    for heading, cell in _ROWS:
        values = [cell(plan) for plan in plans]
        if any(values):
            found.add_row(heading, *values)
    seen = next((plan.foresight for plan in plans if plan.foresight is not None), None)
    lines = [] if seen is None else [Text(f"a fit      at {target(seen)}"), Text(f"           {seen.assumptions}")]
    for plan in plans:
        lines += [Text(f"warning    {plan.sweep}: {warning.message}", style="yellow") for warning in plan.warnings]
    return Group(found, *lines)


def _or_unknown(value: float | None, show: Callable[[float], str]) -> str:
    return "?" if value is None else show(value)


def _cost(plan: Plan, field: str, show: Callable[[float], str]) -> str:
    return "" if plan.cost is None else _or_unknown(getattr(plan.cost, field), show)


def _told(plan: Plan, name: str) -> str:
    if plan.foresight is None:
        return "not known"
    ci95 = getattr(plan.foresight, f"{name}_ci95")
    spread = "" if ci95 is None else f", x{(ci95[1] / ci95[0]) ** 0.5:.3g}"
    return interval(getattr(plan.foresight, name), ci95) + spread


_ROWS: tuple[tuple[str, Callable[[Plan], str]], ...] = (
    ("runs", lambda plan: str(plan.runs)),
    ("trunks", lambda plan: str(plan.trunks)),
    ("segments", lambda plan: str(plan.segments)),
    ("sizes", lambda plan: f"{len(plan.sizes)}: {plan.sizes[0].size} to {plan.sizes[-1].size}"),
    ("tokens trained", lambda plan: human(plan.trained_tokens)),
    ("FLOPs", lambda plan: f"{plan.flops:.3g}"),
    ("wall-clock", lambda plan: _or_unknown(plan.wall_seconds, duration)),
    ("in use", lambda plan: _or_unknown(plan.utilisation, "{:.0%}".format)),
    ("GPU-hours in use", lambda plan: _cost(plan, "gpu_hours", "{:,.4g}".format)),
    ("GPU-hours held", lambda plan: _cost(plan, "held_gpu_hours", "{:,.4g}".format)),
    ("cost, held", lambda plan: _cost(plan, "usd", "${:,.2f}".format)),
    ("cost, in use", lambda plan: _cost(plan, "usd_busy", "${:,.2f}".format)),
    ("kWh", lambda plan: _cost(plan, "energy_kwh", "{:,.4g}".format)),
    ("a fit tells N*", lambda plan: _told(plan, "n_params")),
    ("a fit tells D*", lambda plan: _told(plan, "n_tokens")),
)


def comparison_tables(found: PlanComparison) -> Group:
    """What was foretold beside what was, by size and in all."""
    speeds = table(
        "training speed and time, foretold and real",
        *("size", "runs", "tokens/s foretold", "real", "today", "time foretold", "real", "real / foretold"),
    )
    work = table(
        "work and memory, foretold and real",
        *("size", "FLOPs foretold", "real", "memory foretold", "real", "real / foretold"),
    )
    for size in found.sizes:
        speeds.add_row(
            size.size,
            f"{size.finished_runs} of {size.runs}",
            *(
                _or_unknown(speed, human)
                for speed in (
                    size.tokens_per_second_predicted,
                    size.tokens_per_second_real,
                    size.tokens_per_second_today,
                )
            ),
            _or_unknown(size.seconds_predicted, duration),
            _or_unknown(size.seconds_real, duration),
            _or_unknown(size.seconds_ratio, "{:.2f}".format),
        )
        memory = size.memory_bytes_real
        work.add_row(
            size.size,
            f"{size.flops_predicted:.3g}",
            f"{size.flops_real:.3g}",
            f"{human(size.memory_bytes_predicted)}B",
            _or_unknown(memory, lambda value: f"{human(value)}B"),
            _or_unknown(None if memory is None else memory / size.memory_bytes_predicted, "{:.2f}".format),
        )
    lines = _in_all(found)
    if all(size.tokens_per_second_predicted is None for size in found.sizes):
        lines.append("note      no speed was known when it was planned: launch --calibrate measures each size first")
    return Group(speeds, work, *map(Text, lines))


def _in_all(found: PlanComparison) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(found.planned_unix_ms / 1000))
    known = (
        f"when {found.planned_after_runs} of its runs were finished" if found.planned_after_runs else "before any run"
    )
    lines = [
        f"planned   {when} UTC, {known}, for {found.place}",
        f"runs      {found.finished_runs} of {found.runs} finished",
        "training  " + _pair(found.seconds_predicted, found.seconds_real, "steps of what was trained"),
    ]
    if found.wall_seconds_real is None:
        return [*lines, "wall      not known: the launchers noted no attempts"]
    lines.append("wall      " + _pair(found.wall_seconds_predicted, found.wall_seconds_real, "while anything ran"))
    if found.wall_seconds_today is not None:
        lines.append(f"today     the same sweep would be planned at {duration(found.wall_seconds_today)}")
    return lines


def _pair(predicted: float | None, real: float, what: str) -> str:
    foretold = "no time was foretold" if predicted is None else f"{duration(predicted)} foretold"
    ratio = f", {real / predicted:.2f} of that" if predicted else ""
    return f"{foretold}, {duration(real)} real{ratio} ({what})"
