"""Assumed speeds against a calculation by hand, and which evidence wins."""

import pytest

from llama.accelerators import ACCELERATORS
from llama.accounting import training_flops_per_token
from sweeps.designs.ladder import model_for_width
from sweeps.hardware.assumed_speed import AssumedSpeed
from sweeps.hardware.calibration import Calibration, Speed, SpeedPoint, TrainedShape
from sweeps.hardware.speeds import FinishedSpeeds, Speeds

H100 = next(card for card in ACCELERATORS if card.name == "H100")
NOTHING = Calibration(points=())


def shape(width: int = 512, batch: int = 256, micro: int | None = None, kind="none") -> TrainedShape:
    return TrainedShape(
        model=model_for_width(width, vocab_size=1024, context_length=1024),
        batch_sequences=batch,
        micro_batch_sequences=micro or batch,
        activation_checkpointing=kind,
        compile=False,
    )


def assumed(**changes) -> AssumedSpeed:
    return AssumedSpeed(**{"accelerator": H100, "dtype": "bfloat16", **changes})


def test_a_step_is_its_flops_at_forty_per_cent_and_its_launches():
    """Width 512 has 8 layers: 96 x 8 + 78 = 846 operations, 8.46 ms; 262,144 tokens at 0.4 x 989e12 FLOP/s."""
    one = shape()
    seconds = 262_144 * training_flops_per_token(one.model) / (0.4 * 989e12) + 8.46e-3
    assert one.model.n_layers == 8
    assert assumed().tokens_per_second(one) == pytest.approx(262_144 / seconds)
    assert assumed().tokens_per_second(shape(micro=64)) == pytest.approx(262_144 / (seconds + 3 * 8.46e-3))


def test_a_tiny_model_waits_for_launches():
    """Width 16: 2 layers, 8 sequences of 1,024 tokens: 270 operations of 10 us, and next to no FLOPs."""
    tiny = shape(width=16, batch=8)
    assert tiny.model.n_layers == 2
    assert assumed().tokens_per_second(tiny) == pytest.approx(8192 / 2.7e-3, rel=0.02)


def test_a_share_that_a_person_names_is_all_there_is():
    one = shape()
    by_hand = 0.5 * 989e12 / training_flops_per_token(one.model)
    assert assumed(mfu=0.5).tokens_per_second(one) == pytest.approx(by_hand)
    assert assumed(mfu=0.5, gpus=4).tokens_per_second(one) == pytest.approx(4 * by_hand)
    assert "50% of H100's 989 TFLOP/s" in assumed(mfu=0.5).statement


def test_full_recomputation_costs_a_quarter_more_compute():
    assert assumed().busy_seconds(shape(kind="full")) == pytest.approx(1.25 * assumed().busy_seconds(shape()))


def test_float32_has_no_peak_and_so_no_assumption():
    assert assumed(dtype="float32").tokens_per_second(shape()) is None
    assert Speeds(calibration=NOTHING, assumed=assumed(dtype="float32")).speed(shape()) is None


def test_the_best_evidence_wins():
    one, other = shape(), shape(width=384)
    alone = Calibration(points=(SpeedPoint(shape=one, tokens_per_second=1000.0),))
    finished = FinishedSpeeds(points=(SpeedPoint(shape=one, tokens_per_second=900.0),), runs=3)
    assert Speeds(calibration=alone, finished=finished, assumed=assumed()).speed(one) == Speed(900.0, "finished")
    assert Speeds(calibration=alone, assumed=assumed()).speed(one) == Speed(1000.0, "measured")
    found = Speeds(calibration=alone, finished=finished, assumed=assumed()).speed(other)
    assert found == Speed(pytest.approx(900.0), "extrapolated")
    found = Speeds(calibration=NOTHING, assumed=assumed()).speed(one)
    assert found == Speed(assumed().tokens_per_second(one), "assumed")
    assert Speeds(calibration=alone, finished=finished, assumed=assumed(mfu=0.5)).speed(one).source == "assumed"
    assert Speeds(calibration=NOTHING).speed(one) is None
    counts = Speeds(calibration=alone, assumed=assumed()).sources([one, shape(width=16)])
    assert counts == {"measured": 1, "assumed": 1}


def test_runs_that_share_a_gpu_slow_each_other_only_once_it_is_busy():
    tiny, large = shape(width=16, batch=8), shape(width=1024)
    by_one, by_four = (Speeds(calibration=NOTHING, assumed=assumed(), runs_a_gpu=runs) for runs in (1, 4))
    assert by_four.speed(tiny) == by_one.speed(tiny)
    together = 4 * by_four.speed(large).tokens_per_second
    busy = 262_144 / assumed().busy_seconds(large)
    assert together == pytest.approx(busy)
    assert by_one.speed(large).tokens_per_second < together < 1.1 * by_one.speed(large).tokens_per_second
    alone = Calibration(points=(SpeedPoint(shape=large, tokens_per_second=0.9 * busy),))
    measured = Speeds(calibration=alone, assumed=assumed(), runs_a_gpu=4).speed(large)
    assert measured == Speed(pytest.approx(busy / 4), "measured")
