"""Choosing between mixes that were measured: pure functions of their figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Figures = tuple[float, float]  # cost, loss


def choose(measured: Sequence[T], figures: Callable[[T], Figures], limit: float) -> T | None:
    """The one that costs least of those that lose at most `limit`, and of equal costs the one that loses least; None
    if all lose more.

    No other one is at least as good in both figures and better in one: it would lose at most `limit` too, and come
    before.
    """
    within = [one for one in measured if figures(one)[1] <= limit]
    return min(within, key=figures, default=None)


def undominated(measured: Sequence[T], figures: Callable[[T], Figures]) -> list[T]:
    """The points that no other one beats (at least as good in both figures, better in one), highest cost
    first; of equal ones the first."""
    found: list[T] = []
    for one in sorted(measured, key=figures):
        if not found or figures(one)[1] < figures(found[-1])[1]:
            found.append(one)
    return found[::-1]


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly over their order, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)] if most > 1 else [items[-1]]
