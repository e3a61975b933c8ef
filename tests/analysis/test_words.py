"""Numbers as the answer says them."""

from __future__ import annotations

import pytest

from analysis.words import count, flops, number, seconds, times


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
