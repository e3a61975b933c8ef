"""Which of several points nothing beats on both of two counts."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other is at least as low as on both counts and lower on one, by the second count ascending.
    Of equal points all are on the front.
    """
    order = sorted(range(len(points)), key=lambda k: (points[k][1], points[k][0]))
    front: list[int] = []
    lowest = float("inf")
    for k in order:
        first, second = points[k]
        if first < lowest or (front and points[front[-1]] == (first, second)):
            front.append(k)
            lowest = first
    return front
