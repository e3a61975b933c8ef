"""A sweep that a command trains, launched, killed in the middle and gone on with; the trainer is a stand-in without a model."""

import json
import time
from pathlib import Path

import mlflow
import psutil
import pytest

from llama.metric_names import TAG_RUN_KEY, TRAIN_LOSS, VAL_LOSS
from llama.records import read_journal
from tests.integration.conftest import Launcher, read_index
from tests.sweeps.trainer_command.test_train import FAKE


@pytest.mark.slow  # two launches; the contract is held in tests/sweeps/trainer_command
def test_a_killed_launch_takes_its_commands_along_and_goes_on_where_they_were(launcher: Launcher) -> None:
    mine = launcher.with_changes(
        name="mine",
        budgets={"tokens": [16_384, 32_768]},
        recipe={"name": "width_and_horizon", "warmup_tokens": 1024},
        trainer={"command": ["python", str(FAKE)], "version": "1"},
    )
    script = mine.yaml_path.with_name("script.json")
    script.write_text(json.dumps({"stop_at_step": 4}))
    running = mine.start()
    begun: list[Path] = []
    deadline = time.monotonic() + 120
    while not begun:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        begun = list(mine.storage.glob("runs/*/trainer/waiting"))
    commands = [int(path.with_name("pid").read_text()) for path in begun]
    running.kill()
    running.wait()
    while any(map(psutil.pid_exists, commands)):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    script.write_text("{}")
    result = mine.launch()
    assert (result["finished"], result["failed"], result["diverged"]) == (4, {}, [])
    assert mine.launch()["trained_tokens"] == 0
    index = read_index(mine.storage, "mine")
    mlflow.set_tracking_uri(f"sqlite:///{mine.storage / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    mirrored = {run.data.tags[TAG_RUN_KEY]: run for run in found if TAG_RUN_KEY in run.data.tags}
    assert mirrored.keys() == {run.key for run in index.runs}
    for run in index.runs:
        points = list(read_journal(mine.storage / "runs" / run.key))
        assert [point.step for point in points] == list(range(1, len(points) + 1))
        shown = client.get_metric_history(mirrored[run.key].info.run_id, TRAIN_LOSS)
        assert sorted((row.step, row.value) for row in shown) == [(p.tokens, p.metrics[TRAIN_LOSS]) for p in points]
        assert mirrored[run.key].data.metrics[VAL_LOSS] == 4.25
