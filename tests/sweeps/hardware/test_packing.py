"""How many runs share a device: the choice from measurements, the measuring itself (on a CPU), and what a plan makes of it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.executor import Node
from llama.errors import UserError
from llama.sharing import SharedSpeed, measure_sharing
from sweeps.hardware.calibration import Calibration, PackingPoint, Setup, TrainedShape, load, store
from sweeps.hardware.machine import Machine
from sweeps.hardware.packing import RESERVE, WORTH, choose, packing_words, runs_a_gpu, search, share_of
from sweeps.hardware.place import Place
from sweeps.launching import worker
from sweeps.planning.prepare import gpu_share, hungriest, run_resources
from tests.llama.shapes import tiny_run
from tests.sweeps.examples import CPU, design

GB = 10**9


def shared(runs: int, tokens_per_second: float, memory_bytes: int = GB, device_bytes: int = 80 * GB) -> SharedSpeed:
    return SharedSpeed(
        runs=runs,
        tokens_per_second=tokens_per_second,
        memory_bytes=memory_bytes,
        device_bytes=device_bytes,
        threads=1,
    )


def test_the_most_tokens_a_second_wins() -> None:
    assert choose([shared(1, 100), shared(2, 190), shared(4, 300), shared(8, 280)]).runs == 4


def test_as_much_goes_to_fewer_runs() -> None:
    assert choose([shared(4, 102), shared(2, 101), shared(1, 100)]).runs == 1


def test_never_past_memory() -> None:
    assert choose([shared(1, 100, 30 * GB), shared(2, 190, 30 * GB), shared(4, 400, 30 * GB)]).runs == 2


def test_a_run_that_does_not_fit_is_refused_with_what_would_help() -> None:
    with pytest.raises(UserError, match=r"a run takes 75GB of the device's 80GB.*lower micro_batch"):
        choose([shared(1, 100, 75 * GB)])
    with pytest.raises(UserError, match="nothing was measured"):
        choose([])


@given(
    st.dictionaries(
        st.sampled_from([1, 2, 4, 8, 16]), st.tuples(st.floats(1, 1e9), st.integers(1, 40 * GB)), min_size=1
    )
)
def test_the_choice_fits_and_nothing_that_fits_does_much_better(measured: dict[int, tuple[float, int]]) -> None:
    speeds = [shared(runs, *each) for runs, each in measured.items()]
    fitting = [speed for speed in speeds if speed.runs * speed.memory_bytes <= (1 - RESERVE) * speed.device_bytes]
    if not fitting:
        with pytest.raises(UserError):
            choose(speeds)
        return
    best = choose(speeds)
    assert best in fitting
    assert all(speed.tokens_per_second <= best.tokens_per_second * WORTH for speed in fitting)


@pytest.mark.parametrize(
    ("rate", "memory_bytes", "at_most", "measured"),
    [
        (lambda runs: 100.0 * runs, GB, 16, [1, 2, 4, 8, 16]),  # as many as may be
        (lambda runs: 100.0 * min(runs, 3), GB, 16, [1, 2, 4, 8]),  # until they do no more
        (lambda runs: 100.0 * runs, 20 * GB, 16, [1, 2]),  # four would not fit
        (lambda runs: 100.0 * runs, 70 * GB, 16, [1]),
    ],
)
def test_the_search_stops_where_more_runs_are_no_use(
    rate: Callable[[int], float], memory_bytes: int, at_most: int, measured: list[int]
) -> None:
    found = search(lambda runs: shared(runs, rate(runs), memory_bytes), at_most=at_most)
    assert [speed.runs for speed in found] == measured


def test_runs_that_end_for_want_of_memory_do_not_fit() -> None:
    def measure(runs: int) -> SharedSpeed:
        if runs > 2:
            raise UserError("a run ended")
        return shared(runs, 100.0 * runs)

    assert [speed.runs for speed in search(measure, at_most=8)] == [1, 2]
    with pytest.raises(UserError, match="a run ended"):
        search(lambda runs: measure(runs + 2), at_most=8)


@given(st.integers(1, 100))
def test_shares_add_up_to_a_device(runs: int) -> None:
    assert runs * share_of(runs) <= 1
    assert runs_a_gpu(share_of(runs)) == runs


def measured(best: int) -> Calibration:
    """Every size of the example does best with so many runs, the smaller with twice as many."""
    small, large = (TrainedShape.of(config) for config in hungriest(design()).values())
    rows = [(small, 2 * best), (large, best)]
    return Calibration(
        points=(),
        packing=tuple(
            PackingPoint(shape=shape, speeds=[shared(1, 100), shared(most, 300), shared(4 * most, 300)])
            for shape, most in rows
        ),
    )


def test_a_run_takes_the_share_that_was_measured_to_be_best_for_the_hungriest_size() -> None:
    place = Place(machine=Machine("cuda", "some GPU", "2.13.0"), nodes=(Node(id="here", cpus=32, gpus=2),))
    assert gpu_share(design(), Calibration(points=())) == 0.25  # the rule of thumb
    assert run_resources(design(), place, measured(3)).gpus == 0.3333
    assert run_resources(design(), place, measured(8)).gpus == 0.125
    assert gpu_share(design(resources__gpus=0.5), measured(8)) == 0.5  # what a person says comes first


def test_measurements_are_kept_beside_speeds(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    setup = Setup(Machine("cpu", "Some CPU", "2.13.0"), CPU, threads=1)
    (point, other) = measured(2).packing
    store(setup, (), [point])
    store(setup, (), [other, point.model_copy(update={"speeds": [shared(1, 50)]})])
    assert load(setup).shared(point.shape) == [shared(1, 50)]
    assert load(setup).shared(other.shape) == other.speeds


def test_words_say_what_was_measured() -> None:
    assert packing_words([shared(1, 1e5), shared(2, 1.9e5), shared(4, 1.9e5)], "GPU") == (
        "2 runs on a GPU do 190k tokens a second together, 1.90 times one alone (measured), 1GB each"
    )
    assert (
        packing_words([shared(1, 1e5), shared(2, 1e5)], "GPU") == "one run on a GPU: 2 together do no more (measured)"
    )
    wider = shared(1, 1e5).model_copy(update={"threads": 2})
    assert packing_words([wider, shared(2, 1.5e5)], "machine") == (
        "2 runs of 1 thread on a machine do 150k tokens a second together, 1.50 times one alone of 2 threads (measured), "
        "1GB each"
    )
    assert packing_words([shared(1, 1e5, 60 * GB)], "GPU") == "one run on a GPU: two would not fit (measured)"


def test_two_runs_side_by_side_are_measured_as_two_processes() -> None:
    found = measure_sharing(tiny_run(), 2, seconds=0.2, threads=1, use_gpu=False)
    assert found.runs == 2
    assert found.tokens_per_second > 0
    assert 100e6 < found.memory_bytes < found.device_bytes  # a process with torch loaded
    assert found.threads == 1


def test_a_run_that_cannot_train_is_told_with_its_reason() -> None:
    with pytest.raises(UserError, match="ended with code 1: "):
        measure_sharing(
            tiny_run().model_copy(update={"micro_batch_sequences": 3}), 1, seconds=0.1, threads=1, use_gpu=False
        )


def test_the_workers_search_shares_the_cores_between_runs() -> None:
    found = worker.measure_packing(attempt=1, shapes=[tiny_run().model_dump_json()], seconds=0.1, cores=1, threads=None)
    assert [[SharedSpeed.model_validate(speed).runs for speed in speeds] for speeds in found["speeds"]] == [[1]]
    assert found["through_mps"] is False
