from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.accounting import count_parameters, training_flops_per_token
from llama.config import RunConfig
from llama.metric_names import TAG_FLOPS_BUDGET, TAG_HELD_OUT, TAG_RUN_KEY, TAG_RUN_KIND, TAG_TRUNK, inference_metric
from llama.records import CheckpointMark
from llama.sweep_index import SweepIndex, SweepRun
from sweeps.tracking.names import allowed, checkpoint_tags, inference_metrics, inference_tags, run_params, run_tags
from tests.sweeps.tracking.synthetic import branch_of, make_config, make_inference

TRUNK = make_config(32, None)
BRANCH = branch_of(TRUNK, 1024 * 400)


def leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    return [value]


@pytest.mark.parametrize("config", [TRUNK, BRANCH, make_config(48, 1024 * 200, seed=3)])
def test_params_hold_every_value_that_decides_the_run(config: RunConfig) -> None:
    shown = set(run_params(config).values())
    for leaf in leaves(config.model_dump(exclude={"parent"})):
        if leaf is not None:
            assert (str(leaf).lower() if isinstance(leaf, bool) else str(leaf)) in shown, leaf


def test_params_count_parameters_tokens_and_flops() -> None:
    params = run_params(BRANCH)
    for name, count in count_parameters(BRANCH.model)._asdict().items():
        assert params[name] == str(count)
    assert params["n_tokens"] == str(1024 * 400)
    assert params["flops"] == str(1024 * 400 * training_flops_per_token(BRANCH.model))
    assert params["fork_step"] == str(BRANCH.fork_step)


def test_a_trunk_promises_no_tokens_since_params_can_not_change() -> None:
    assert {"n_tokens", "flops", "steps"}.isdisjoint(run_params(TRUNK))


def test_tags_tell_kind_trunk_budget_and_held_out() -> None:
    runs = [
        SweepRun(key="t", name="trunk", trunk=None, is_trunk=True, flops_budget=None, held_out=False),
        SweepRun(key="b", name="branch", trunk="t", is_trunk=False, flops_budget=3.2e11, held_out=True),
        SweepRun(key="r", name="run", trunk=None, is_trunk=False, flops_budget=None, held_out=False),
    ]
    index = SweepIndex(sweep="s", sweep_id="i", corpus_folder="c", spec_folder=".", runs=runs)
    trunk, branch, run = (run_tags(run, index, BRANCH) for run in runs)
    assert [tags[TAG_RUN_KIND] for tags in (trunk, branch, run)] == ["trunk", "branch", "run"]
    assert (branch[TAG_RUN_KEY], branch[TAG_TRUNK], branch[TAG_HELD_OUT]) == ("b", "t", "true")
    assert float(branch[TAG_FLOPS_BUDGET]) == 3.2e11
    assert TAG_TRUNK not in trunk
    assert TAG_FLOPS_BUDGET not in trunk


def test_a_checkpoint_is_a_uri_and_a_digest() -> None:
    mark = CheckpointMark(
        step=400, tokens=1, journal_bytes=0, training_seconds=0.0, kept=True, sha256={"model.safetensors": "ab12"}
    )
    tags = checkpoint_tags(Path("/data/runs/k e y"), mark)
    assert tags["checkpoint.uri"] == "file:///data/runs/k%20e%20y/checkpoints/step-00000400"
    assert (tags["checkpoint.step"], tags["checkpoint.sha256"]) == ("400", "ab12")


def test_inference_has_batch_1_saturation_and_a_curve_over_batches() -> None:
    cost = make_inference(BRANCH)
    rows = inference_metrics(cost)
    values = {name: value for name, value, step in rows if step == 0}
    assert values[inference_metric("ttft_seconds", saturated=False)] == cost.points[0].ttft_seconds.median
    assert values[inference_metric("batch", saturated=True)] == 64
    assert (
        values[inference_metric("decode_tokens_per_second", saturated=True)] == cost.saturated.decode_tokens_per_second
    )
    curve = {step: value for name, value, step in rows if name == "inference/by_batch/decode_tokens_per_second"}
    assert curve == {point.batch: point.decode_tokens_per_second for point in cost.points}


def test_inference_tags_and_metrics_together_hold_the_whole_record_but_its_spread() -> None:
    cost = make_inference(BRANCH)
    told = inference_tags(cost).keys() | {f"inference.{name.split('/')[1]}" for name, _, _ in inference_metrics(cost)}
    assert {f"inference.{field}" for field in type(cost).model_fields} - told == {"inference.points"}


@given(st.text(min_size=1, max_size=40))
def test_any_domain_name_makes_a_key_that_mlflow_takes(domain: str) -> None:
    import re

    assert re.fullmatch(r"[/\w.\- ]*", allowed(f"val/{domain}/loss"))


def test_names_that_mlflow_takes_stay_as_they_are_and_others_stay_apart() -> None:
    assert allowed("val/code 1.x-y_z/loss") == "val/code 1.x-y_z/loss"
    assert allowed("c+") != allowed("c#")
