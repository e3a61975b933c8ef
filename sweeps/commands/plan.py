"""`isoloss plan`: what a sweep would run and cost, before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama.errors import UserError
from sweeps.commands.options import CalibrateOption, JsonOption, StorageOption
from sweeps.commands.terminal import note, print_json, print_table, say

if TYPE_CHECKING:
    from sweeps.planning.prepare import Prepared
    from sweeps.planning.records import Plan

PLACE_PANEL = "Where"

SweepsArgument = Annotated[
    list[str],
    typer.Argument(metavar="SWEEP...", help="A sweep's YAML, its folder, or its name; several to compare them."),
]
CompareOption = Annotated[
    bool, typer.Option("--compare", help="Hold the plan of the sweep's first launch against what happened.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="64xH100",
        help="A cluster that need not exist: GPUs and their model, or nodes, GPUs of each and model, as 8x4xA100-40GB "
        "(default: this machine).",
        rich_help_panel=PLACE_PANEL,
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price-per-hour", help="Of one GPU, in dollars (default: a list price).", rich_help_panel=PLACE_PANEL
    ),
]
MfuOption = Annotated[
    float | None,
    typer.Option(
        "--mfu",
        help="Share of the GPUs' peak that every size reaches, over all that is known of speeds.",
        rich_help_panel=PLACE_PANEL,
    ),
]


GanttOption = Annotated[
    Path | None,
    typer.Option(
        "--gantt",
        metavar="FILE",
        help="Draw the schedule, as planned or with --compare as it was, into a .png or .svg.",
    ),
]


TARGET_PANEL = "What a fit could tell"
TargetFlopsOption = Annotated[
    float | None,
    typer.Option(
        "--target-flops",
        help="Training compute at which the optimum is asked (default: 10 times the longest run's).",
        rich_help_panel=TARGET_PANEL,
    ),
]
TargetLossOption = Annotated[
    float | None,
    typer.Option("--target-loss", help="Or the loss that it reaches.", rich_help_panel=TARGET_PANEL),
]


def plan(
    sweeps: SweepsArgument,
    cluster: ClusterOption = None,
    price_per_hour: PriceOption = None,
    mfu: MfuOption = None,
    target_flops: TargetFlopsOption = None,
    target_loss: TargetLossOption = None,
    storage: StorageOption = None,
    calibrate: CalibrateOption = False,
    gantt: GanttOption = None,
    compare: CompareOption = False,
    as_json: JsonOption = False,
) -> None:
    """What a sweep would run and cost, before anything is spent; of several sweeps, side by side."""
    from sweeps.hardware.named_cluster import parse_cluster
    from sweeps.hardware.place import named_place, this_place
    from sweeps.planning.foresight import foreseen_plans
    from sweeps.planning.gantt.suffix import check_suffix
    from sweeps.planning.prepare import Stated, prepare, require_fit
    from sweeps.storage import open_storage

    _check_together(sweeps, cluster, calibrate, gantt, compare)
    _check_target(target_flops, target_loss)
    if gantt is not None:
        check_suffix(gantt)
    place = this_place() if cluster is None else named_place(parse_cluster(cluster))
    _check_stated(mfu, price_per_hour, has_gpus=place.accelerator is not None)
    stated = Stated(mfu=mfu, usd_per_gpu_hour=price_per_hour)
    found = [prepare(sweep, open_storage(storage), place, stated=stated, say=note) for sweep in sweeps]
    if any(prepared.spec.tune is not None for prepared in found):
        _show_study(
            found, only_sizes=not (compare or gantt or calibrate or target_flops or target_loss), as_json=as_json
        )
        return
    if compare:
        _compare(found[0], sweeps[0], gantt, as_json=as_json)
        return
    if calibrate:
        from sweeps.launching.measuring import calibrate_here

        found = [calibrate_here(prepared, place, say=note) for prepared in found]
    plans = foreseen_plans(found, target_flops=target_flops, target_loss=target_loss)
    _show(plans, as_json=as_json)
    if gantt is not None:
        _draw(found[0], gantt)
    require_fit(plans)


def _show_study(found: list[Prepared], *, only_sizes: bool, as_json: bool) -> None:
    """How large a tuning study may get.

    Raises:
        UserError: it stands beside other sweeps, or more is asked of it.
    """
    from sweeps.tuning.study_size import study_size

    study = next(prepared for prepared in found if prepared.spec.tune is not None)
    if len(found) > 1 or not only_sizes:
        raise UserError(
            f"{study.yaml_path} is a tuning study: what it trains hangs on what it finds, so its plan says how large it may "
            "get; name it alone, without --compare, --gantt, --calibrate and --target"
        )
    assert study.spec.tune is not None  # it was chosen by that
    size = study_size(study.design, study.spec.tune)
    if as_json:
        print_json(size.model_dump(mode="json"))
    else:
        say(size.words)


def _check_together(sweeps: list[str], cluster: str | None, calibrate: bool, gantt: Path | None, compare: bool) -> None:
    """Raise UserError for options that mean nothing beside each other."""
    if calibrate and cluster is not None:
        raise UserError("--calibrate measures this machine, --cluster names another: run it on a node of that cluster")
    if compare and cluster is not None:
        raise UserError("--compare holds a plan against what happened where the sweep ran: leave out --cluster")
    if len(sweeps) > 1 and (gantt is not None or compare):
        raise UserError(f"{'--gantt' if gantt is not None else '--compare'} takes one sweep, {len(sweeps)} were named")


def _check_target(target_flops: float | None, target_loss: float | None) -> None:
    if target_flops is not None and target_loss is not None:
        raise UserError("--target-flops and --target-loss: the target is one of the two")
    for option, value in (("--target-flops", target_flops), ("--target-loss", target_loss)):
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{option} is {value:g}; a number above 0 is right")


def _show(plans: list[Plan], *, as_json: bool) -> None:
    """One plan whole, several side by side."""
    from sweeps.planning.comparison_tables import side_by_side
    from sweeps.planning.table import render

    if as_json:
        documents = [plan.model_dump(mode="json") for plan in plans]
        print_json(documents[0] if len(plans) == 1 else {"plans": documents})
    else:
        print_table(render(plans[0]) if len(plans) == 1 else side_by_side(plans))


def _compare(prepared: Prepared, argument: str, gantt: Path | None, *, as_json: bool) -> None:
    from sweeps.planning.comparison import compare_plan
    from sweeps.planning.comparison_tables import comparison_tables
    from sweeps.planning.gantt.bars import happened_gantt
    from sweeps.planning.gantt.picture import write_gantt
    from sweeps.storage import open_sweep

    comparison = compare_plan(prepared, open_sweep(argument, prepared.storage))
    if as_json:
        print_json(comparison.model_dump(mode="json"))
    else:
        print_table(comparison_tables(comparison))
    if gantt is not None:
        drawn = happened_gantt(prepared.design, prepared.storage)
        if drawn is None:
            raise UserError("--gantt: no launcher noted an attempt at this sweep's runs, so there is nothing to draw")
        write_gantt(drawn, gantt)
        note(f"drawn: {gantt}")


def _draw(prepared: Prepared, path: Path) -> None:
    from sweeps.planning.gantt.bars import planned_gantt
    from sweeps.planning.gantt.picture import write_gantt

    found = planned_gantt(prepared.design, prepared.schedule, place=prepared.plan.place)
    if found is None:
        raise UserError("--gantt: not every size's speed is known, so there is no schedule to draw; see --calibrate")
    write_gantt(found, path)
    note(f"drawn: {path}")


def _check_stated(mfu: float | None, price_per_hour: float | None, *, has_gpus: bool) -> None:
    """What a person says of the GPUs.

    Raises:
        UserError: a number is out of its range, or there are no GPUs that it could be said of.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError(f"--mfu is {mfu:g}; a share above 0 and up to 1 is right, as 0.4")
    if price_per_hour is not None and not 0 <= price_per_hour < float("inf"):
        raise UserError(f"--price-per-hour is {price_per_hour:g}; dollars for an hour of one GPU, 0 or more, are right")
    named = [option for option, value in (("--mfu", mfu), ("--price-per-hour", price_per_hour)) if value is not None]
    if named and not has_gpus:
        raise UserError(f"{' and '.join(named)}: this machine has no GPU that is known; name GPUs with --cluster")
