"""The law through a sweep's finished runs, kept up to date while the sweep runs, in a thread that stays out of the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llama.errors import UserError

if TYPE_CHECKING:
    from analysis.forecasts.law_so_far import LawSoFar, Projection

#: After a fit the thread rests for so many times what the fit took of a core: training has the cores.
REST = 20.0


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What the runs so far say."""

    law: LawSoFar | None = None
    """None before the first look."""
    projections: Mapping[str, Projection]
    """Final losses of unfinished runs, by key."""
    suspicions: Mapping[str, tuple[str, ...]]
    """What speaks against finished runs, by key."""

    def __str__(self) -> str:
        return "" if self.law is None else str(self.law)


class LawFollower:
    """Use it in a `with` statement; `run_ended` after each run that finishes, and read `outlook` at any time."""

    def __init__(self, sweep_folder: Path, *, say: Callable[[str], None]) -> None:
        self._folder, self._say, self._said = sweep_folder, say, False
        self.outlook = Outlook(projections={}, suspicions={})
        self._news, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="law-so-far")

    def __enter__(self) -> LawFollower:
        self._news.set()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A fit under way is left to end by itself, or with the process."""
        self._stop.set()
        self._news.set()

    def run_ended(self) -> None:
        """A run finished: the law is fitted anew before long. Returns at once."""
        self._news.set()

    def _follow(self) -> None:
        from analysis.forecasts import law_so_far  # noqa: F401 - loaded before the first fit is timed

        while True:
            self._news.wait()
            if self._stop.is_set():
                return
            self._news.clear()
            started = time.thread_time()
            try:
                self.outlook = look(self._folder)
            except (UserError, OSError):
                pass  # a file that is being replaced, or storage that is away: the next run to end brings another look
            except Exception as error:  # of the fit's own arithmetic: no reason to leave the launch unwatched
                self._say_once(
                    f"the law so far is not known: {type(error).__name__}: {error}; the launch goes on without it"
                )
            if self._stop.wait(REST * (time.thread_time() - started)):
                return

    def _say_once(self, line: str) -> None:
        if not self._said:
            self._said = True
            self._say(line)


def look(sweep_folder: Path) -> Outlook:
    """Read the sweep's runs and fit them.

    Raises:
        UserError: the folder is no sweep's.
    """
    from analysis.forecasts.law_so_far import law_so_far
    from analysis.runs.read_sweep import read_sweep
    from analysis.runs.suspect_runs import suspect_runs

    table = read_sweep(sweep_folder)
    law = law_so_far(table)
    suspicions = suspect_runs(table.frame)
    for run_id, reason in law.outliers.items():
        suspicions[run_id] = (*suspicions.get(run_id, ()), reason)
    return Outlook(law=law, projections=law.project_unfinished(table), suspicions=suspicions)
