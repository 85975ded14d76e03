"""Paired statistics of claims: differences between two arms over the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["reproduced", "not reproduced", "undecided"]
REPRODUCED: Verdict = "reproduced"
NOT_REPRODUCED: Verdict = "not reproduced"
UNDECIDED: Verdict = "undecided"


@dataclass(frozen=True)
class PairedDifference:
    """Statistics of paired differences d_1..d_n.

    Attributes:
        n: number of pairs.
        mean: mean difference.
        sd: standard deviation of the differences (n - 1), nan for one pair.
        low, high: two-sided t interval of the mean at ``confidence``; infinite for one pair.
        positive: number of differences above zero; zeros count as neither.
        negative: number below zero.
        sign_p: two-sided exact sign test, zeros left out.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    positive: int
    negative: int
    sign_p: float


def paired_difference(differences: Sequence[float], confidence: float = 0.95) -> PairedDifference:
    """Mean, t interval and sign test of paired differences.

    Raises:
        ValueError: without differences, or when one is not finite.
    """
    if not differences or not all(math.isfinite(d) for d in differences):
        raise ValueError(f"paired statistics need finite differences, got {list(differences)}")
    n = len(differences)
    mean = math.fsum(differences) / n
    positive, negative = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = sign_test(positive, negative)
    if n == 1:
        return PairedDifference(1, mean, math.nan, -math.inf, math.inf, positive, negative, p)
    from scipy.stats import t

    sd = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * sd / math.sqrt(n)
    return PairedDifference(n, mean, sd, mean - half, mean + half, positive, negative, p)


def without_statistics(differences: Sequence[float]) -> PairedDifference:
    """Of differences that are not all finite, since a run diverged: how many are above and below zero."""
    positive, negative = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return PairedDifference(
        len(differences), math.nan, math.nan, -math.inf, math.inf, positive, negative, math.nan
    )


def sign_test(positive: int, negative: int) -> float:
    """Two-sided exact p value of the sign test: 1 for no pairs, 2^(1-n) when all n agree."""
    n = positive + negative
    tail = sum(math.comb(n, k) for k in range(min(positive, negative) + 1)) / 2**n
    return min(1.0, 2 * tail)


def least_seeds(significance: float = 0.05) -> int:
    """Fewest pairs with which a sign test can be significant: 6 at 0.05."""
    n = 1
    while sign_test(n, 0) > significance:
        n += 1
    return n


def judge(
    difference: PairedDifference, least_effect: float, test: Literal["t", "sign"], significance: float
) -> Verdict:
    """Verdict on "the mean difference exceeds ``least_effect``", positive meaning as claimed.

    Reproduced: the t interval lies above ``least_effect`` and, for ``sign``, the sign test is significant in
    favour. Not reproduced: the t interval lies below it. Otherwise the seeds do not tell.
    """
    in_favour = difference.positive > difference.negative and difference.sign_p <= significance
    if difference.low > least_effect and (test == "t" or in_favour):
        return REPRODUCED
    if difference.high < least_effect:
        return NOT_REPRODUCED
    return UNDECIDED


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Reproduced when all are, not reproduced when any is not, else undecided."""
    if NOT_REPRODUCED in verdicts:
        return NOT_REPRODUCED
    return REPRODUCED if verdicts and all(v == REPRODUCED for v in verdicts) else UNDECIDED
