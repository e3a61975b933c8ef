"""`isoloss pause`, `resume` and `cancel`: a whole sweep or single runs, while a launcher is at work or before the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llama.errors import UserError
from sweeps.commands.options import JsonOption, StorageOption, SweepArgument
from sweeps.commands.terminal import print_json, say
from sweeps.words import NAMED_IN_A_COMMAND

if TYPE_CHECKING:
    from pathlib import Path

    from sweeps.storage import SweepFolder

RunOption = Annotated[
    list[str] | None,
    typer.Option("--run", metavar="NAME", help="Only this run, as isoloss status names it. Repeatable."),
]


def pause(
    sweep: SweepArgument, run: RunOption = None, storage: StorageOption = None, as_json: JsonOption = False
) -> None:
    """Let what runs write a checkpoint and leave, and start nothing more, until it is resumed."""
    from sweeps.control import ask

    found, keys = _subject(sweep, run, storage)
    ask(found.folder, "paused", keys)
    _tell(found, as_json)


def cancel(
    sweep: SweepArgument, run: RunOption = None, storage: StorageOption = None, as_json: JsonOption = False
) -> None:
    """End what runs, and leave it out of this and later launches until it is resumed. Nothing on disk is removed."""
    from sweeps.control import ask

    found, keys = _subject(sweep, run, storage)
    ask(found.folder, "cancelled", keys)
    _tell(found, as_json)


def resume(
    sweep: SweepArgument, run: RunOption = None, storage: StorageOption = None, as_json: JsonOption = False
) -> None:
    """Let it go on. Without --run, runs that were paused or cancelled by name stay so."""
    from sweeps import control

    found, keys = _subject(sweep, run, storage)
    whole = control.read_control(found.folder)
    if keys is not None and (whole.paused or whole.cancelled):
        word = "cancelled" if whole.cancelled else "paused"
        raise UserError(
            f"--run: sweep {found.index.sweep} is {word} as a whole, and so are its runs: "
            f"isoloss resume {found.index.sweep}, without --run, lets it go on"
        )
    control.resume(found.folder, keys)
    _tell(found, as_json)


def _subject(sweep: str, runs: list[str] | None, storage: Path | None) -> tuple[SweepFolder, list[str] | None]:
    """The sweep, and the keys of the runs; None for all of it.

    Raises:
        UserError: there is no such sweep, or no run of that name in it.
    """
    from sweeps.storage import open_storage, open_sweep
    from sweeps.yaml_lines import nearest

    found = open_sweep(sweep, open_storage(storage))
    if not runs:
        return found, None
    keys = {one.name: one.key for one in found.index.runs}
    for name in runs:
        if name not in keys:
            raise UserError(
                f"--run {name}: sweep {found.index.sweep} has no such run{nearest(name, list(keys))} "
                f"(isoloss status {found.index.sweep} lists them)"
            )
    return found, [keys[name] for name in runs]


def _tell(found: SweepFolder, as_json: bool) -> None:
    """What holds now, and who will heed it."""
    from llama.lease import current_owner
    from sweeps.control import read_control

    control, owner = read_control(found.folder), current_owner(found.folder)
    names = {
        "paused": [run.name for run in found.index.runs if run.key in control.paused_runs],
        "cancelled": [run.name for run in found.index.runs if run.key in control.cancelled_runs],
    }
    name = found.index.sweep
    if as_json:
        print_json(
            {
                "sweep": name,
                "paused": control.paused,
                "cancelled": control.cancelled,
                "paused_runs": names["paused"],
                "cancelled_runs": names["cancelled"],
            }
        )
        return
    say(f"{name}: {'cancelled' if control.cancelled else 'paused' if control.paused else 'free to run'}")
    for word, runs in names.items():
        if runs:
            named = "".join(f" --run {run}" for run in runs[:NAMED_IN_A_COMMAND]) + (
                " ..." if len(runs) > NAMED_IN_A_COMMAND else ""
            )
            say(
                f"{word}: {', '.join(runs)} (isoloss resume {name}{named} lets {'it' if len(runs) == 1 else 'them'} go on)"
            )
    if owner is not None:
        say(f"its launcher, process {owner.pid}, heeds that within seconds")
    else:
        say("no launcher is at work: the next one heeds that")
