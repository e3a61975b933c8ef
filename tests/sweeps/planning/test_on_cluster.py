"""Plans on named clusters: what is held, what it costs, and that the simulated schedule loses no second."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.task import Resources
from llama.accounting import training_flops_per_token
from sweeps.designs.design import make_design
from sweeps.designs.numerics import Numerics
from sweeps.hardware.assumed_speed import AssumedSpeed
from sweeps.hardware.calibration import Calibration
from sweeps.hardware.named_cluster import parse_cluster
from sweeps.hardware.packing import runs_a_gpu
from sweeps.hardware.place import named_place
from sweeps.hardware.speeds import Speeds
from sweeps.planning.plan import make_plan
from sweeps.planning.records import Plan
from sweeps.planning.schedule import Schedule, foretell
from tests.sweeps.examples import FACTS, sweep

GPU = Numerics("bfloat16", compile_from_flops=3e16, attention_kernel="flash")


def planned(cluster: str, *, gpus: float = 1.0, usd: float | None = None, **changes) -> tuple[Schedule, Plan]:
    found = make_design(sweep(**changes), FACTS, GPU)
    place = named_place(parse_cluster(cluster))
    speeds = Speeds(
        calibration=Calibration(points=()),
        assumed=AssumedSpeed(accelerator=place.cluster.accelerator, dtype="bfloat16", mfu=0.5),
        runs_a_gpu=runs_a_gpu(gpus),
    )
    schedule = foretell(found, speeds, place.nodes, dict.fromkeys(found.models, Resources(gpus=gpus)))
    return schedule, make_plan(found, speeds, place, schedule, packed={}, usd_per_gpu_hour=usd)


ONE_RUN = {
    "ladder__widths": [512],
    "budgets__flops": [1e18],
    "recipe__schedule": "cosine",
    "recipe__reference_budget": None,
}


def test_one_run_by_hand():
    """1e18 FLOPs at half of an H100's 989e12 a second are 2,022 seconds; eight GPUs are held for them, at $3.99 an hour."""
    _, plan = planned("8xH100", **ONE_RUN)
    seconds = plan.flops / (0.5 * 989e12)
    assert seconds == pytest.approx(2022.2, rel=0.001)
    assert plan.wall_seconds == plan.device_seconds == pytest.approx(seconds)
    assert plan.utilisation == pytest.approx(1 / 8)
    assert plan.slots == 8
    cost = plan.cost
    assert cost.gpu_hours == pytest.approx(0.5617, rel=0.001)
    assert cost.held_gpu_hours == pytest.approx(8 * 0.5617, rel=0.001)
    assert cost.usd == pytest.approx(8 * 0.5617 * 3.99, rel=0.001)
    assert cost.usd_busy == pytest.approx(0.5617 * 3.99, rel=0.001)
    assert cost.energy_kwh == pytest.approx(0.5617 * 0.7 * 1.1, rel=0.001)
    (size,) = plan.sizes
    tokens_per_second = (
        0.5 * 989e12 / training_flops_per_token(make_design(sweep(**ONE_RUN), FACTS, GPU).models["w512"])
    )
    assert (size.tokens_per_second, size.speed_source) == (pytest.approx(tokens_per_second), "assumed")


def test_a_price_of_ones_own_and_a_card_without_one():
    _, plan = planned("8xH100", usd=2.0, **ONE_RUN)
    assert plan.cost.usd_busy == pytest.approx(2 * plan.cost.gpu_hours)
    assert plan.cost.price_source == "as --price-per-hour says"
    _, plan = planned("8xL4", **ONE_RUN)
    assert (plan.cost.usd, plan.cost.usd_per_gpu_hour, plan.cost.price_source) == (None, None, None)
    assert plan.cost.gpu_hours is not None


@settings(max_examples=25)
@given(
    st.sampled_from(["1xH100", "3xH100", "20xA100-40GB", "2x4xH200"]),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(1, 4),
)
def test_the_schedule_keeps_every_gpu_second(cluster, gpus, seeds):
    schedule, plan = planned(cluster, gpus=gpus, seeds__base=list(range(seeds)))
    slots = {slot.task_id: slot for slot in schedule.slots}
    assert slots.keys() == schedule.seconds.keys()
    for id, slot in slots.items():
        assert slot.end_seconds - slot.start_seconds == pytest.approx(schedule.seconds[id])
    held = gpus * sum(schedule.seconds.values())
    assert plan.cost.gpu_hours == pytest.approx(held / 3600)
    assert plan.utilisation == pytest.approx(held / (plan.wall_seconds * plan.cost.gpus))
    assert 0 < plan.utilisation <= 1 + 1e-9
    changes = sorted({slot.start_seconds for slot in slots.values()})
    for node in schedule.nodes:
        for at in changes:
            here = [s for s in slots.values() if s.node_id == node.id and s.start_seconds <= at < s.end_seconds]
            assert gpus * len(here) <= node.gpus


def test_a_size_that_does_not_fit_is_told_by_name():
    _, plan = planned("8xL4", ladder__widths=[64, 4096], budgets__flops=[1e19, 3e19], recipe__reference_budget=1e19)
    assert [size.fits for size in plan.sizes] == [True, False]
    assert plan.sizes[1].layout.startswith("too large: ")


def test_as_many_runs_as_were_asked_share_a_gpu():
    _, plan = planned("8xH100", gpus=0.1)
    assert {(size.runs_a_gpu, size.layout) for size in plan.sizes} == {(10, "10 a GPU")}


def test_json_holds_a_plan_on_a_cluster():
    _, plan = planned("64xH100")
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_more_gpus_than_the_trainer_uses_are_told_of():
    _, plan = planned("8xH100", gpus=2.0)
    (warning,) = (warning for warning in plan.warnings if warning.code == "gpus")
    assert warning.message.startswith("resources.gpus is 2: isoloss trains a run on one GPU")
    assert {(size.runs_a_gpu, size.layout) for size in plan.sizes} == {(1, "2 GPUs a run")}
    assert plan.slots == 4
