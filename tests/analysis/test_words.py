"""Numbers as the answer says them."""

from __future__ import annotations

import pytest

from analysis.results import Interval
from analysis.words import as_fast, brackets, count, flops, number, ratio_of, seconds, times


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (38520, "39k"),
        (4.3e6, "4.3M"),
        (999_600, "1.0M"),
        (1.8e12, "1.8T"),
        (512, "512"),
        (float("inf"), "infinitely many"),
    ],
)
def test_counts(value: float, said: str) -> None:
    assert count(value) == said


def test_the_rest() -> None:
    assert [flops(1.6e12), flops(1e24), flops(50.0)] == ["1.6e12 FLOPs", "1e24 FLOPs", "50 FLOPs"]
    assert [times(1.62), times(12.3), times(1.0)] == ["1.6x", "12x", "1x"]
    assert [number(0.3478), number(2085.4), number(1.2e-7)] == ["0.348", "2,085", "1.2e-07"]
    assert seconds(300, "core-seconds") == "5 core-minutes"
    assert seconds(9e21, "FLOPs") == "9e21 FLOPs"
    assert seconds(12.5, "USD") == "12.5 USD"
    assert [count(9.9e15), count(1.3e16), count(1.242e21)] == ["9,900T", "1.3e16", "1.2e21"]


@pytest.mark.parametrize(
    ("ratio", "cost", "speed"),
    [
        (2.5, "2.5x the FLOPs", "2.5x as fast"),
        (1.04, "4 % more FLOPs", "4 % faster"),
        (0.93, "7 % fewer FLOPs", "7 % slower"),
        (1.001, "the same FLOPs", "equally fast"),
        (0.5, "0.5x the FLOPs", "0.5x as fast"),
    ],
)
def test_ratios(ratio: float, cost: str, speed: str) -> None:
    assert ratio_of(ratio, "FLOPs") == cost
    assert as_fast(ratio) == speed


def test_an_endless_interval_ends_in_a_sign() -> None:
    assert brackets(Interval(lo=1.5, hi=float("inf")), lambda x: f"{x:.2f}") == " [1.50, ∞]"
    assert brackets(Interval(lo=1e6, hi=2e6), count) == " [1.0M, 2.0M]"
    assert brackets(None, count) == ""
