"""What a sweep that names a command plans, and what it refuses."""

from pathlib import Path

import pytest

from llama.config import RunConfig
from llama.errors import UserError
from sweeps.designs.spec import SweepSpec
from sweeps.hardware.calibration import Calibration
from sweeps.yaml_lines import parse_record
from tests.sweeps.examples import design, plan_on_cpus

TRAINER = {"command": ["python", "mine.py"], "version": "1"}
TEXT = """\
name: mine
corpus: {domains: {code: {stdlib: code, weight: 1}}}
ladder: {widths: [16], context_length: 128}
evaluation: {validation_tokens: 65_536}
recipe: {name: inverse_width}
budgets: {tokens: [1e6]}
"""


def test_every_run_stands_alone_at_the_rate_for_its_own_length() -> None:
    found = design(recipe__name="width_and_horizon", recipe__reference_budget=None, trainer=TRAINER)
    assert len(found.runs) == len(found.segments) == 6
    for run in found.runs:
        assert run.record.trunk is run.config.parent is None
        assert run.config.recipe.schedule == "wsd"
        assert run.config.recipe.reference_tokens == pytest.approx(run.config.tokens, abs=run.config.batch_tokens)
        assert RunConfig.model_validate_json(run.config.model_dump_json()) == run.config
    ours = design(recipe__name="width_and_horizon", recipe__reference_budget=None)
    assert not {run.record.key for run in ours.runs} & {run.record.key for run in found.runs}
    plan = plan_on_cpus(found, Calibration(points=()))
    assert plan.design == "isoFLOP profiles; every run from scratch by `python mine.py`, version 1"


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ("{command: [python, a.py]}", "line 7: trainer.version: this key is missing"),
        ("{command: [], version: a}", "line 7: trainer.command: found an empty list; a list of at least 1 is right"),
        ("{command: python a.py, version: a}", "line 7: trainer.command: found 'python a.py' (text); a list is right"),
        ("{command: [python, 5], version: a}", "line 7: trainer.command[1]: found 5; text is right"),
        ("{command: [python], version: 1}", "line 7: trainer.version: found 1; text is right"),
        ("{comand: [python], version: a}", "line 7: trainer.comand: unknown key; did you mean 'command'?"),
        ("python", "line 7: trainer: found 'python' (text); a block of keys is right"),
    ],
)
def test_a_mistake_is_named_with_its_line(trainer: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_record(f"{TEXT}trainer: {trainer}\n", SweepSpec, source="my.yaml")
    assert f"my.yaml, {message}" in str(error.value)


def test_what_needs_our_own_trainer_is_refused() -> None:
    trainer = "trainer: {command: [python, a.py], version: a}\n"
    with pytest.raises(UserError, match=r"line 7: trainer: every run of a command stands alone"):
        parse_record(
            TEXT.replace("inverse_width", "inverse_width, reference_budget: 5e5") + trainer, SweepSpec, source="my.yaml"
        )
    tune = "tune: {shape: {widths: [16], layers: [2], heads: [1], trials: 20}}\n"
    with pytest.raises(UserError, match=r"line 8: tune: a tuning study trains by isoloss's own trainer"):
        parse_record(TEXT + trainer + tune, SweepSpec, source="my.yaml")


def test_the_example_has_the_length_that_its_page_says() -> None:
    example = Path(__file__).parents[3] / "docs" / "examples" / "hf_trainer.py"
    code = [
        line for line in example.read_text().splitlines() if line and not line.startswith(("import", "from", '"""'))
    ]
    assert len(code) <= 60
