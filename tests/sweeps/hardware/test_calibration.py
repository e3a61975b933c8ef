"""The cache of measured speeds and what is estimated from it."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama.accounting import training_flops_per_token
from llama.errors import UserError
from sweeps.designs.ladder import model_for_width
from sweeps.hardware.calibration import Calibration, Setup, SpeedPoint, TrainedShape, load, store
from sweeps.hardware.machine import Machine, this_machine
from tests.sweeps.examples import CPU

SETUP = Setup(Machine("cpu", "Some CPU", "2.13.0"), CPU, threads=1)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "isoloss"


def shape(width, batch_sequences=8, **changes):
    values = {
        "model": model_for_width(width, vocab_size=512, context_length=128),
        "batch_sequences": batch_sequences,
        "micro_batch_sequences": batch_sequences,
        "activation_checkpointing": "none",
        "compile": False,
    }
    return TrainedShape(**values | changes)


def point(width, tokens_per_second, batch_sequences=8, **changes):
    return SpeedPoint(shape=shape(width, batch_sequences, **changes), tokens_per_second=tokens_per_second)


def calibration(*points):
    return Calibration(points=points)


def test_stored_points_come_back_and_are_replaced_by_newer_ones():
    assert load(SETUP).points == ()
    store(SETUP, [point(16, 1000.0), point(32, 500.0)])
    store(SETUP, [point(32, 600.0), point(32, 700.0, batch_sequences=16)])
    assert load(SETUP).points == (point(16, 1000.0), point(32, 600.0), point(32, 700.0, batch_sequences=16))


@pytest.mark.parametrize(
    "other",
    [
        SETUP._replace(machine=Machine("cpu", "Other CPU", "2.13.0")),
        SETUP._replace(machine=Machine("cpu", "Some CPU", "2.14.0")),
        SETUP._replace(machine=Machine("cuda", "Some CPU", "2.13.0")),
        SETUP._replace(numerics=CPU._replace(dtype="bfloat16")),
        SETUP._replace(threads=2),
    ],
    ids=str,
)
def test_another_setup_shares_nothing(other):
    store(SETUP, [point(16, 1000.0)])
    assert load(other).points == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "\xff"])
def test_a_corrupt_cache_is_ignored_with_a_reason_and_can_be_written_over(cache_folder, text):
    store(SETUP, [point(16, 1000.0)])
    (file,) = cache_folder.iterdir()
    file.write_bytes(text.encode("latin-1"))
    found = load(SETUP)
    assert found.points == ()
    assert file.name in found.problem
    store(SETUP, [point(16, 900.0)])
    assert load(SETUP).points == (point(16, 900.0),)


def test_another_format_version_is_passed_over(cache_folder):
    store(SETUP, [point(16, 1000.0)])
    (file,) = cache_folder.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 0}))
    assert load(SETUP) == Calibration(points=())


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        store(SETUP, [point(16, 1000.0)])


@pytest.mark.parametrize("speed", [0.0, -1.0, math.inf, math.nan])
def test_impossible_speeds_are_refused(speed):
    with pytest.raises(UserError, match="tokens a second"):
        store(SETUP, [point(16, speed)])


def test_nothing_measured_gives_no_speed():
    assert calibration().speed(shape(16, 8)) is None


def test_measured_shapes_keep_their_own_speed():
    found = calibration(point(16, 1000.0), point(32, 1100.0)).speed(shape(32, 8))  # noise: the larger was faster
    assert found == (1100.0, "measured")


def test_between_measured_shapes_log_speed_is_linear_in_log_flops():
    low, high, between = (training_flops_per_token(shape(width).model) for width in (16, 64, 32))
    found = calibration(point(64, 100.0), point(16, 1000.0)).speed(shape(32, 8))
    share = math.log(between / low) / math.log(high / low)
    assert found.tokens_per_second == pytest.approx(1000 * 0.1**share)
    assert found.source == "interpolated"


def test_only_shapes_that_train_alike_are_compared():
    """A compiled shape, or one that recomputes, says nothing of others while some that train alike are known."""
    plain, compiled = point(16, 1000.0), point(16, 1500.0, compile=True)
    found = calibration(plain, compiled, point(16, 700.0, activation_checkpointing="full"))
    assert found.speed(shape(16)) == (1000.0, "measured")
    assert found.speed(shape(16, compile=True)) == (1500.0, "measured")
    assert found.speed(shape(16, 4)) == (pytest.approx(1000.0), "interpolated")
    assert found.speed(shape(16, 4, compile=True)) == (pytest.approx(1500.0), "interpolated")
    assert calibration(plain).speed(shape(16, compile=True)) == (pytest.approx(1000.0), "interpolated")


def test_beyond_one_measured_shape():
    one = calibration(point(32, 1000.0))
    ratio = training_flops_per_token(shape(48).model) / training_flops_per_token(shape(32).model)
    assert one.speed(shape(48, 8)) == (pytest.approx(1000 / ratio), "extrapolated")
    assert one.speed(shape(16, 8)) == (pytest.approx(1000), "extrapolated")
    assert one.speed(shape(32, 16)) == (pytest.approx(1000), "interpolated")


def test_far_from_every_measured_shape_there_is_no_guess():
    assert calibration(point(16, 1000.0)).speed(shape(256, 8)) is None
    assert calibration(point(256, 1000.0)).speed(shape(16, 8)) is None


@given(
    st.dictionaries(st.sampled_from([16, 24, 32, 48, 64, 80]), st.floats(10, 1e6), min_size=1),
    st.integers(8, 60).map(lambda half: 2 * half),
    st.integers(8, 60).map(lambda half: 2 * half),
)
def test_estimates_never_rise_with_the_models_flops(speeds, one, other):
    found = calibration(*(point(width, speed) for width, speed in speeds.items()))
    small, large = sorted((shape(one, 3), shape(other, 3)), key=lambda shape: training_flops_per_token(shape.model))
    faster, slower = found.speed(small), found.speed(large)  # a batch that no point has: always estimated
    if faster is not None and slower is not None:
        assert slower.tokens_per_second <= faster.tokens_per_second * (1 + 1e-9)
    for speed in (faster, slower):
        if speed is not None and speed.source == "interpolated":
            assert min(speeds.values()) * (1 - 1e-9) <= speed.tokens_per_second <= max(speeds.values()) * (1 + 1e-9)


def test_this_machine_agrees_with_torch():
    import torch

    machine = this_machine()
    assert machine.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert machine.torch_version == torch.__version__
    assert machine.name
