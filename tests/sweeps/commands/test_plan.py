"""`isoloss plan` from the command line."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.executor import Node
from llama.errors import UserError
from sweeps.command import app
from sweeps.hardware.machine import Machine
from sweeps.hardware.place import Place
from tests.sweeps.examples import SWEEP


@pytest.fixture(autouse=True)
def unmeasured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was measured of this machine before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    text = "".join(f"the {word} of number {n} is {n * n % 97}\n" for n in range(20_000) for word in ("square", "root"))
    (folder / "text.txt").write_text(text)
    corpus = {
        "domains": {"text": {"files": ["text.txt"], "weight": 1, "max_document_bytes": 2000}},
        "tokenizer": {"vocab_size": 300},
    }
    spec = SWEEP | {"corpus": corpus, "evaluation": {"validation_tokens": 4096}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec))
    large = spec | {"ladder": {"widths": [64, 4096], "context_length": 128}, "budgets": {"flops": [1e18, 1e19]}}
    large["recipe"] = {"name": "inverse_width", "reference_budget": 1e18}
    (folder / "large.yaml").write_text(yaml.safe_dump(large | {"name": "large"}))
    return folder


def plan(folder: Path, *arguments: str, sweep: str = "sweep.yaml"):
    return CliRunner().invoke(app, ["plan", str(folder / sweep), "--storage", str(folder / "storage"), *arguments])


def test_a_cluster_is_planned_for_in_words_and_in_json(place: Path):
    shown = plan(place, "--cluster", "64xH100")
    assert shown.exit_code == 0, shown.output
    for part in (
        "on 64xH100",
        "4 a GPU",
        "GPU-hours in use",
        "$3.99 a GPU-hour (Lambda",
        "kWh",
        "assumed: 40% of H100's",
    ):
        assert part in " ".join(shown.stdout.split())
    found = json.loads(plan(place, "--cluster", "64xH100", "--json").stdout)
    assert (found["place"], found["cost"]["nodes"]) == ("64xH100", "8 nodes of 8, 12 cores a GPU")
    assert (found["slots"], found["dtype"], found["cost"]["gpus"]) == (256, "bfloat16", 64)
    halved = json.loads(plan(place, "--cluster", "64xH100", "--json", "--price-per-hour", "2", "--mfu", "0.01").stdout)
    assert halved["cost"]["usd_per_gpu_hour"] == 2
    assert halved["speeds"][1].startswith("assumed: 1% of H100's")


def test_what_does_not_fit_is_shown_and_then_refused(place: Path):
    shown = plan(place, "--cluster", "8xL4", sweep="large.yaml")
    assert isinstance(shown.exception, UserError)
    assert "large does not fit 8xL4: w4096: too large: needs" in str(shown.exception)
    assert "on 8xL4" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "8xH10"], "did you mean 'H100'"),
        (["--cluster", "8xH100", "--mfu", "40"], "--mfu is 40"),
        (["--cluster", "8xH100", "--price-per-hour", "-1"], "--price-per-hour is -1"),
        (["--mfu", "0.4"], "--mfu: this machine has no GPU that is known"),
        (["--gantt", "plan.pdf"], "ends in .png or .svg"),
        (["--gantt", "plan.png"], "not every size's speed is known"),
        (["--compare"], "no launched sweep 'example' in .*: launch it first"),
        (["--storage", __file__], "is a file; name a folder with --storage"),
        (["--compare", "--cluster", "8xH100"], "leave out --cluster"),
        (["--target-flops", "1e12", "--target-loss", "3"], "one of the two"),
        (["--target-loss", "-3"], "--target-loss is -3"),
        (["--cluster", "8xH100", "--calibrate"], "run it on a node of that cluster"),
    ],
)
def test_refusals(place: Path, arguments: list[str], message: str):
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(
            app,
            ["plan", str(place / "sweep.yaml"), "--storage", str(place / "storage"), *arguments],
            catch_exceptions=False,
        )


def test_what_a_fit_could_tell_is_told_at_the_target(place: Path):
    found = json.loads(plan(place, "--cluster", "8xH100", "--target-loss", "3", "--json").stdout)
    assert (found["foresight"]["target_loss"], found["foresight"]["target_flops"]) == (3, None)
    assert found["foresight"]["loss"] == pytest.approx(3)
    assert found["foresight"]["n_params_ci95"] is None  # two sizes can't tell three parameters of N apart
    shown = plan(place, "--cluster", "8xH100")
    assert "a fit     of these 6 runs would tell N*" in shown.stdout
    assert "FLOPs, 10 times the longest run's" in shown.stdout
    assert "(unbounded)" in shown.stdout
    assert "these runs cannot tell the law from one with" in shown.stdout


def test_two_sweeps_stand_side_by_side_at_one_target(place: Path):
    both = CliRunner().invoke(
        app,
        [
            *("plan", str(place / "sweep.yaml"), str(place / "large.yaml"), "--storage", str(place / "storage")),
            *("--cluster", "64xH200", "--json"),
        ],
    )
    first, second = json.loads(both.stdout)["plans"]
    assert (first["sweep"], second["sweep"]) == ("example", "large")
    assert first["foresight"]["n_params"] == second["foresight"]["n_params"]
    assert second["foresight"]["target_flops"] == pytest.approx(10 * second["foresight"]["longest_run_flops"])
    assert first["foresight"]["target_flops"] == second["foresight"]["target_flops"]


def test_a_schedule_is_drawn(place: Path, tmp_path: Path):
    shown = plan(place, "--cluster", "8xH100", "--gantt", str(tmp_path / "plan.svg"))
    assert shown.exit_code == 0, shown.output
    assert "as planned on 8xH100" in (tmp_path / "plan.svg").read_text()


@pytest.mark.parametrize(("resources", "asked"), [({"cpus": 9999}, "9999 CPU"), ({"gpus": 1}, "1 CPU and 1 GPU")])
def test_a_run_that_no_machine_here_can_hold_is_refused_by_its_file(place: Path, monkeypatch, resources, asked):
    cpu = Place(machine=Machine("cpu", "some processor", "2.13.0"), nodes=(Node(id="here", cpus=2),))
    monkeypatch.setattr("sweeps.hardware.place.this_place", lambda: cpu)
    spec = yaml.safe_load((place / "sweep.yaml").read_text()) | {"resources": resources}
    (place / "greedy.yaml").write_text(yaml.safe_dump(spec))
    shown = plan(place, sweep="greedy.yaml")
    assert isinstance(shown.exception, UserError)
    assert str(shown.exception).startswith(f"{place / 'greedy.yaml'}: a run of w16 asks for {asked}")
