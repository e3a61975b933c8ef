"""Which experimental designs a sweep unites, in the words that scaling-law papers use, with counts by part."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.designs.budgets import Budgets, DesignKind, Part
from sweeps.designs.design import Design
from sweeps.planning.records import DesignPart

_CALLED: dict[DesignKind, str] = {
    "isoflop": "isoFLOP profiles",
    "grid": "grid of sizes and tokens",
    "ladder": "ladder of tokens a parameter",
    "by_hand": "cells by hand",
}


def design_parts(design: Design) -> list[DesignPart]:
    """The parts, as written."""
    finals = [run for run in design.runs if not run.record.is_trunk]
    found = []
    for place, part in enumerate(design.spec.parts):
        runs = [run for run in finals if place in run.parts]
        found.append(
            DesignPart(
                design=part.design,
                description=_describe(part, list(dict.fromkeys(run.size for run in runs))),
                runs=len(runs),
                shared_runs=sum(len(run.parts) > 1 for run in runs),
                left_out=sum(cell.part == place for cell in design.left_out),
            )
        )
    return found


def design_in_words(design: Design) -> str:
    """The whole: `union of 2 parts, isoFLOP profiles and cells by hand; every run a cooldown branch off a WSD trunk`."""
    names = list(dict.fromkeys(_CALLED[part.design] for part in design.spec.parts))
    union = f"union of {len(design.spec.parts)} parts, " if len(design.spec.parts) > 1 else ""
    trainer = design.spec.trainer
    if trainer is not None:
        return (
            f"{union}{_and(names)}; every run from scratch by `{' '.join(trainer.command)}`, version {trainer.version}"
        )
    if design.spec.has_trunks:
        return f"{union}{_and(names)}; every run a cooldown branch off its size's WSD trunk"
    return f"{union}{_and(names)}; every run from scratch on a cosine of its own length"


def _describe(part: Part, sizes: Sequence[str]) -> str:
    n_sizes = f"{len(sizes)} size{'' if len(sizes) == 1 else 's'}"
    if not isinstance(part, Budgets):
        return f"{_CALLED[part.design]}: {len(part.cells)} at {n_sizes}"
    unit = {"flops": "FLOPs", "tokens": "tokens", "tokens_per_parameter": "tokens a parameter"}[part.unit]
    low, high = min(part.values), max(part.values)
    span = f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit} ({len(part.values)} budgets)"
    own = ", some widths at their own" if part.by_width else ""
    return f"{_CALLED[part.design]}: {n_sizes} at {span}{own}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
