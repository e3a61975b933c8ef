"""Files of runs that can't be read any more: put aside, so that a launch makes them again instead of stumbling over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel

from llama.config import RunConfig
from llama.errors import UserError
from llama.records import (
    CONFIG,
    DONE,
    FAILURE,
    INFERENCE,
    Done,
    Failure,
    InferenceCost,
    Record,
    read_record,
    write_record,
)

#: What each is made from again: DONE from the last checkpoint, a serving cost by measuring. A failure's reason is lost.
_REMADE: Mapping[str, type[Record]] = {DONE: Done, INFERENCE: InferenceCost, FAILURE: Failure}


def put_damaged_aside(folders: Mapping[Path, RunConfig], *, say: Callable[[str], None]) -> None:
    """Go through run folders, each with the config that its run has. What is put aside keeps its name with `.damaged` added.

    The caller holds the sweep's lease. Other launchers may share the runs, but these files come into being whole: what doesn't
    read is damaged, whoever looks.
    """
    for folder, config in folders.items():
        for name, kind in _REMADE.items():
            if (trouble := _trouble(folder / name, kind)) is not None:
                _put_aside(folder / name)
                say(f"{trouble}: put aside, to be made again")
        if (trouble := _trouble(folder / CONFIG, RunConfig)) is not None:
            _put_aside(folder / CONFIG)
            write_record(folder / CONFIG, config)
            say(f"{trouble}: put aside, and written again")


def _trouble(path: Path, kind: type[BaseModel]) -> str | None:
    try:
        read_record(path, kind)
    except UserError as error:
        return str(error)
    return None


def _put_aside(path: Path) -> None:
    path.replace(path.with_name(f"{path.name}.damaged"))
