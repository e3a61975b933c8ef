from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.plots import style


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (39_424, "count", "39.4k"),
        (999_950, "count", "1M"),  # rounding may lift a number into the next suffix
        (1_000_000, "count", "1M"),
        (6.738e9, "count", "6.74B"),
        (1.4e12, "count", "1.4T"),
        (3e17, "count", "3×10¹⁷"),
        (512, "count", "512"),
        (1e12, "power", "10¹²"),
        (3.2e11, "power", "3.2×10¹¹"),
        (-2e-5, "plain", "−2×10⁻⁵"),
        (2.75, "plain", "2.75"),
        (0, "plain", "0"),
        (2500, "plain", "2500"),
        (123_456, "plain", "123,000"),
        (0.31, "percent", "31 %"),
        (3.2e-4, "seconds", "320 µs"),
        (1.92e-8, "seconds", "19.2 ns"),
        (0, "seconds", "0 s"),
        (math.nan, "count", "–"),
        (math.inf, "seconds", "–"),
    ],
)
def test_numbers_read_as_people_write_them(value: float, unit: style.Unit, text: str) -> None:
    assert style.format_number(value, unit) == text


@given(
    low=st.floats(min_value=1e-6, max_value=1e15),
    ratio=st.floats(min_value=1.01, max_value=1e9),
    log=st.booleans(),
    most=st.integers(min_value=4, max_value=9),
)
def test_ticks_lie_inside_in_order_and_are_few(low: float, ratio: float, log: bool, most: int) -> None:
    high = low * ratio
    places = style.ticks(low, high, log=log, most=most)
    assert 1 <= len(places) <= most + 1
    assert places == sorted(set(places))
    slack = 1e-9 * high
    assert all(low - slack <= place <= high + slack for place in places)


def test_ticks_of_a_quickstart_loss_axis_have_distinct_texts() -> None:
    texts = [style.format_number(tick, "plain") for tick in style.ticks(2.6, 3.6, log=True)]
    assert len(texts) >= 4
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("colours", [style.size_colours, style.budget_colours])
def test_colours_darken_with_size_and_are_readable_on_white(colours: object) -> None:
    found = colours([2.3e4, 3.9e4, 7.3e4, 1.3e5, 2.7e5, 4e5])  # type: ignore[operator]
    luminances = [_luminance(colour) for _, colour in sorted(found.items())]
    assert luminances == sorted(luminances, reverse=True)
    assert all(1.05 / (luminance + 0.05) >= 2.4 for luminance in luminances)


def test_one_size_has_a_colour() -> None:
    assert len(style.size_colours([7e9, 7e9])) == 1
    assert style.size_colours([]) == {}


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
