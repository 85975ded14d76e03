"""Weights of the three pairs over the training, and which direction of a pair is learned."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Pair = Literal["xy", "xyhat", "yyhat"]
PAIRS: tuple[Pair, ...] = ("xy", "xyhat", "yyhat")
"""Document and gold summary, document and generated summary, gold and generated summary."""
DIRECTIONS: dict[Pair, tuple[tuple[str, str], tuple[str, str]]] = {
    "xy": (("y", "x"), ("x", "y")),
    "xyhat": (("x", "yhat"), ("yhat", "x")),
    "yyhat": (("y", "yhat"), ("yhat", "y")),
}
"""(online, target) of each pair: the first alone where it is not symmetrical, else both."""


@dataclass(frozen=True)
class Schedule:
    """A weight as a function of the optimiser update: linear between the points, then the last value.

    Attributes:
        steps: updates, strictly increasing, the first is 0.
        values: at these.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, update: int) -> float:
        place = bisect_right(self.steps, update) - 1
        if place + 1 >= len(self.steps):
            return self.values[-1]
        low, high = self.steps[place : place + 2]
        share = (update - low) / (high - low)
        return self.values[place] + share * (self.values[place + 1] - self.values[place])

    @property
    def is_zero(self) -> bool:
        """Whether it is 0 for ever; a schedule that begins at 0 is not."""
        return not any(self.values)


def schedule(given: float | str, key: str) -> Schedule:
    """A number, or ``step:value,step:value`` as the official options have it.

    Raises:
        ValueError: naming ``key`` for anything else: steps that do not increase from 0, a negative weight.
    """
    if not isinstance(given, str):
        return Schedule((0,), (float(given),))
    try:
        points = [part.split(":") for part in given.split(",")] if ":" in given else [["0", given]]
        steps, values = tuple(int(a) for a, _ in points), tuple(float(b) for _, b in points)
    except ValueError:
        raise ValueError(f"{key} is {given!r}: write a number, or step:value,step:value") from None
    if steps[0] != 0 or any(b <= a for a, b in itertools.pairwise(steps)):
        raise ValueError(f"{key} is {given!r}: its steps must begin at 0 and increase")
    if not all(0 <= value < float("inf") for value in values):
        raise ValueError(f"{key} is {given!r}: a weight is a number of at least 0")
    return Schedule(steps, values)


def targets_of(weights: Mapping[Pair, Schedule], symmetrical: bool) -> set[str]:
    """Views that the target network ever represents."""
    used = [pair for pair, weight in weights.items() if not weight.is_zero]
    return {target for pair in used for _, target in directions(pair, symmetrical)}


def directions(pair: Pair, symmetrical: bool) -> Sequence[tuple[str, str]]:
    """(online, target) views of the losses of a pair."""
    return DIRECTIONS[pair] if symmetrical else DIRECTIONS[pair][:1]
