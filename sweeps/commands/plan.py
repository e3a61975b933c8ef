"""`isoloss plan`: what a sweep would run and cost, before anything is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama.errors import UserError
from sweeps.commands.options import CalibrateOption, JsonOption, StorageOption
from sweeps.commands.terminal import note, print_json, print_table

if TYPE_CHECKING:
    from sweeps.plan_records import Plan
    from sweeps.prepare import Prepared

PLACE_PANEL = "Where"

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's YAML, its folder, or its name.")]
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


def plan(
    sweep: SweepArgument,
    cluster: ClusterOption = None,
    price_per_hour: PriceOption = None,
    mfu: MfuOption = None,
    storage: StorageOption = None,
    calibrate: CalibrateOption = False,
    gantt: GanttOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a sweep would run and cost, before anything is spent."""
    from sweeps.gantt import check_suffix
    from sweeps.hardware.named_cluster import parse_cluster
    from sweeps.hardware.place import named_place, this_place
    from sweeps.plan_table import render
    from sweeps.prepare import Stated, prepare
    from sweeps.storage import open_storage

    if gantt is not None:
        check_suffix(gantt)
    place = this_place() if cluster is None else named_place(parse_cluster(cluster))
    _check_stated(mfu, price_per_hour, has_gpus=place.accelerator is not None)
    stated = Stated(mfu=mfu, usd_per_gpu_hour=price_per_hour)
    prepared = prepare(sweep, open_storage(storage), place, stated=stated, say=note)
    if calibrate:
        if cluster is not None:
            raise UserError(
                "--calibrate measures this machine, --cluster names another: run it on a node of that cluster"
            )
        from cluster.local_executor import LocalExecutor
        from sweeps.measuring import calibrate_shapes

        with LocalExecutor() as executor:
            prepared = calibrate_shapes(prepared, place, executor, say=note)
    if as_json:
        print_json(prepared.plan.model_dump(mode="json"))
    else:
        print_table(render(prepared.plan))
    if gantt is not None:
        _draw(prepared, gantt)
    _refuse_what_does_not_fit(prepared.plan)


def _draw(prepared: Prepared, path: Path) -> None:
    from sweeps.gantt.bars import planned_gantt
    from sweeps.gantt.picture import write_gantt

    found = planned_gantt(prepared.design, prepared.schedule, place=prepared.plan.place.split(":")[0])
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


def _refuse_what_does_not_fit(plan: Plan) -> None:
    """The plan was shown; it can't be carried out as it stands."""
    reasons = [f"{size.size}: {size.layout}" for size in plan.sizes if not size.fits]
    if reasons:
        raise UserError(f"{plan.sweep} does not fit {plan.place.split(':')[0]}: {'; '.join(reasons)}")
