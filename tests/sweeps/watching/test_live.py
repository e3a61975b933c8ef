"""What a person watches: the table on screens of any size, and what a launch says where there is no terminal."""

import time
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from cluster.states import Event, State
from cluster.task import Task
from llama.metric_names import VAL_LOSS
from llama.records import DONE, HEARTBEAT, Done, Heartbeat, write_record
from sweeps.control import ask
from sweeps.designs.segments import segments_of
from sweeps.watching import law_follower, live
from sweeps.watching.law_follower import LawFollower, Outlook
from sweeps.watching.live import LiveView
from sweeps.watching.live_table import Row, live_table
from tests.analysis.synthetic import SyntheticSweep, write_sweep


def drawn(rows: list[Row], *, width: int, height: int) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=False)
    console.print(
        live_table([Text("34% of the training"), Text("law so far: 14 runs")], rows, width=width, height=height)
    )
    return console.file.getvalue().splitlines()


def branch(number: int, **changes: object) -> Row:
    values = {
        "name": f"w{number}-C3.2e11-s0",
        "is_trunk": False,
        "state": "waiting",
        "progress": "waits for trunk at 1.2M",
    }
    return Row(**(values | changes))


RUNNING = {
    "state": "running",
    "progress": " 30%  120/400",
    "tokens": 123_456,
    "loss": 3.21,
    "tokens_per_second": 12_345.0,
}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (80, 10)])
def test_a_thousand_runs_fit_on_the_screen(width: int, height: int) -> None:
    rows = [branch(k) for k in range(960)]
    rows += [branch(2000 + k, **RUNNING, projected="3.05 ± 0.02") for k in range(39)]
    rows.append(Row(**RUNNING, name="w32-trunk-s0", is_trunk=True))
    lines = drawn(rows, width=width, height=height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    assert lines[2] == "40 running, 960 waiting for their trunk"
    assert lines[4].split() == ["w32-trunk-s0", "30%", "120/400", "123k", "3.210", "12.3k"]
    assert lines[5].split()[-4:] == ["→", "3.05", "±", "0.02"]
    listed = len(lines) - 5
    assert lines[-1].startswith(f"and {1000 - listed} more: ")
    assert lines[-1].endswith("960 waiting for their trunk") or listed >= 40


def test_what_a_run_waits_for_is_readable_at_80_columns() -> None:
    lines = drawn([branch(48), branch(32, **RUNNING, projected="3.05 ± 0.02")], width=80, height=24)
    assert "waits for trunk at 1.2M" in lines[-1]


class Launch:
    """A launch of a synthetic sweep whose segments do as the test says; nothing is trained."""

    def __init__(self, root: Path) -> None:
        self.sweep: SyntheticSweep = write_sweep(root, noise=0.003)
        self.said: list[str] = []
        self.names = {run.key: run.name for run in self.sweep.index.runs}
        trunk = next(run.key for run in self.sweep.index.runs if run.is_trunk)
        keys = [trunk, *(run.key for run in self.sweep.index.runs if run.trunk == trunk)]
        self.segments = list(segments_of({key: self.sweep.configs[key] for key in keys}))
        self.view = LiveView(
            self.segments,
            self.names,
            {segment.id: 1.0 for segment in self.segments},
            self.sweep.storage / "runs",
            self.sweep.folder,
            trouble=lambda: None,
            say=self.said.append,
        )

    def event(self, segment: object, state: State, **details: object) -> None:
        task = Task(id=segment.id, function=print)
        self.view.on_event(Event(seconds=0.0, task=task, state=state, attempt=1, **details))

    def folder(self, segment: object) -> Path:
        return self.sweep.storage / "runs" / segment.run_key

    def rows(self) -> dict[str, tuple[str, str]]:
        return {row.name: (row.state, row.progress) for row in self.view._rows(self.view._beats())}


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return Launch(tmp_path)


def test_rows_follow_the_supervisor_and_what_people_ask(launch: Launch) -> None:
    trunk, branch = launch.segments[0], next(segment for segment in launch.segments if segment.ends_run)
    name, forks = launch.names[branch.run_key], branch.start_step * branch.config.batch_tokens
    assert forks < 999_000
    assert launch.rows()[name][0] == "waiting"
    assert f"waits for trunk at {forks / 1e3:.3g}k" in launch.rows()[name][1]
    launch.event(trunk, State.RUNNING)
    beat = Heartbeat(
        attempt=1, step=3, until_step=trunk.end_step, tokens=30, loss=5.0, tokens_per_second=10.0, unix_ms=0
    )
    write_record(launch.folder(trunk) / HEARTBEAT, beat)
    assert launch.rows()[launch.names[trunk.run_key]][0] == "running"
    launch.event(branch, State.READY)
    assert launch.rows()[name] == ("ready", "waits for room")
    ask(launch.sweep.folder, "paused", [branch.run_key])
    assert launch.rows()[name][0] == "paused"
    ask(launch.sweep.folder, "cancelled", [branch.run_key])
    assert launch.rows()[name][0] == "cancelled"
    launch.event(branch, State.CANCELLED)
    assert f"0 of {sum(one.ends_run for one in launch.segments) - 1} runs" in launch.view._progress({})
    ask(launch.sweep.folder, "paused", [branch.run_key])
    launch.event(branch, State.PAUSED)
    assert launch.rows()[name][1] == f"paused until isoloss resume {launch.sweep.folder.name} --run {name}"
    launch.event(trunk, State.RETRYING, reason="worker_died: ended by SIGKILL")
    assert launch.rows()[launch.names[trunk.run_key]] == (
        "retrying",
        "retrying: attempt 2 after worker_died: ended by SIGKILL",
    )
    assert launch.said[-1].endswith("is tried again: worker_died: ended by SIGKILL")
    launch.event(trunk, State.FAILED, reason="crashed: no space left")
    launch.event(branch, State.BLOCKED, reason="its trunk failed")
    rows = launch.rows()
    assert rows[launch.names[trunk.run_key]] == ("failed", "failed: crashed: no space left")
    assert launch.rows()[name] == ("blocked", "blocked: its trunk failed")


def test_a_run_that_ends_does_not_read_the_others(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    branch, *others = [segment for segment in launch.segments if segment.ends_run]
    for segment in (branch, *others):
        launch.event(segment, State.RUNNING)
    monkeypatch.setattr(live, "read_heartbeat", lambda folder: pytest.fail(f"read {folder}"))
    launch.event(branch, State.DONE)
    assert "finished: " in launch.said[-1]
    assert f"1 of {1 + len(others)} runs" in launch.said[-1]


def wait_until(holds: object) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_finished_run_is_told_beside_what_the_law_had_said(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is unfinished when the launch begins, and is projected from the others."""
    monkeypatch.setattr(live, "PLAIN_SECONDS", 0.05)
    branch = next(segment for segment in launch.segments if segment.ends_run)
    folder = launch.folder(branch)
    done = Done.model_validate_json((folder / DONE).read_text())
    (folder / DONE).unlink()
    with launch.view:
        wait_until(lambda: launch.view._law.outlook.projections)
        launch.event(branch, State.RUNNING)
        beat = Heartbeat(
            attempt=1, step=3, until_step=branch.end_step, tokens=30, loss=5.0, tokens_per_second=10.0, unix_ms=0
        )
        write_record(folder / HEARTBEAT, beat)
        wait_until(lambda: any("final losses to come" in line for line in launch.said))
        write_record(folder / DONE, done)
        launch.event(branch, State.DONE)
    told = next(line for line in launch.said if "final losses to come" in line)
    assert told.startswith("law so far: ")
    assert f"{launch.names[branch.run_key]} → " in told
    finished = next(line for line in launch.said if "finished:" in line)
    assert f"loss {done.metrics[VAL_LOSS]:.4f} (the law had said " in finished


def test_the_follower_says_nothing_of_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    said: list[str] = []
    follower = LawFollower(tmp_path / "nowhere", say=said.append)
    with follower:
        wait_until(lambda: not follower._news.is_set())
        follower.run_ended()
    follower._thread.join(60)
    assert not follower._thread.is_alive()
    assert follower.outlook == Outlook(projections={}, suspicions={})
    assert not said


def test_a_fit_that_breaks_is_told_once_and_the_next_look_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said, looks = Outlook(projections={}, suspicions={"key": ("loss",)}), [], []

    def look(folder: Path) -> Outlook:
        looks.append(folder)
        if len(looks) <= 2:
            raise np.linalg.LinAlgError("Singular matrix")
        return found

    monkeypatch.setattr(law_follower, "look", look)
    with LawFollower(tmp_path, say=said.append) as follower:
        for number in (1, 2, 3):
            wait_until(lambda number=number: len(looks) == number)
            follower.run_ended()
        wait_until(lambda: follower.outlook is found)
    assert said == ["the law so far is not known: LinAlgError: Singular matrix; the launch goes on without it"]
