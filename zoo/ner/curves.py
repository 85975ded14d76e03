"""What a run of rounds is worth: F1 over labelled words as numbers, and when more labels cease to help."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def area_under(words: Sequence[float], f1: Sequence[float], end: float | None = None) -> float:
    """Area under F1 over words, divided by the range: a mean F1 by the trapezoid rule.

    Args:
        words: labelled at each round, increasing.
        f1: at each round.
        end: upper end of the range, for runs that end at different words; interpolated linearly. The lower
            one is the seed set's.

    Returns:
        NaN of fewer than two rounds.
    """
    x, y = np.asarray(words, dtype=float), np.asarray(f1, dtype=float)
    end = float(x[-1]) if end is None else min(end, float(x[-1]))
    if len(x) < 2 or end <= x[0]:
        return math.nan
    kept = x < end
    x_cut, y_cut = np.append(x[kept], end), np.append(y[kept], np.interp(end, x, y))
    return float(np.trapezoid(y_cut, x_cut) / (end - x[0]))


def words_to_reach(words: Sequence[float], f1: Sequence[float], target: float) -> float:
    """Words at which F1 first reaches ``target``, interpolated linearly; infinity if it never does."""
    before: tuple[float, float] | None = None
    for point in zip(words, f1, strict=True):
        x, y = point
        if y >= target:
            if before is None:
                return float(x)
            return float(before[0] + (x - before[0]) * (target - before[1]) / (y - before[1]))
        before = point
    return math.inf


def kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Cohen's kappa of two taggers on the same words.

    None where both say one and the same tag throughout: two models that find nothing at all agree in every
    word, and that says nothing of either.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"two taggers of the same words are compared, got {len(first)} and {len(second)} tags"
        )
    n = len(first)
    agree = sum(a == b for a, b in zip(first, second, strict=True)) / n
    one, two = Counter(first), Counter(second)
    chance = sum(one[tag] * two[tag] for tag in one) / n**2
    return None if chance == 1 else (agree - chance) / (1 - chance)


def stabilised(kappas: Sequence[float | None], threshold: float, rounds: int = 3) -> bool:
    """Whether successive models have agreed long enough (Bloodgood & Vijay-Shanker 2009): the mean of the
    last ``rounds`` kappas is at least ``threshold``; never where one of them is None."""
    known = [k for k in kappas[-rounds:] if k is not None]
    return len(known) == rounds and math.fsum(known) / rounds >= threshold - 1e-12  # of rounding
