"""Paired statistics and the rule that turns them into a verdict."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from zoo.evidence.compare.statistics import judge, least_seeds, overall, paired_difference, sign_test


def test_interval_of_a_known_sample() -> None:
    d = paired_difference([1.0, 2.0, 3.0])
    assert (d.n, d.mean, d.sd) == (3, 2.0, 1.0)
    half = 4.302652729749462 / math.sqrt(3)  # t quantile .975 at 2 degrees of freedom
    assert (d.low, d.high) == (pytest.approx(2 - half, rel=1e-11), pytest.approx(2 + half, rel=1e-11))


def test_interval_equals_scipys() -> None:
    values = [0.3, -0.1, 0.25, 0.4, 0.05, 0.31, -0.02]
    d = paired_difference(values, confidence=0.9)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (d.low, d.high) == (pytest.approx(low, rel=1e-12), pytest.approx(high, rel=1e-12))
    assert (d.positive, d.negative) == (5, 2)


@pytest.mark.parametrize(
    ("positive", "negative", "p"),
    [(6, 0, 2 / 64), (5, 1, 14 / 64), (3, 3, 1.0), (0, 0, 1.0), (0, 8, 2 / 256)],
)
def test_sign_test_is_exact_and_two_sided(positive: int, negative: int, p: float) -> None:
    assert sign_test(positive, negative) == pytest.approx(p, rel=1e-11)
    if positive + negative:
        assert p == pytest.approx(stats.binomtest(positive, positive + negative).pvalue, rel=1e-11)


def test_ties_count_for_neither_side() -> None:
    d = paired_difference([0.0, 0.0, 1.0])
    assert (d.positive, d.negative, d.sign_p) == (1, 0, 1.0)


def test_six_seeds_are_the_fewest_of_a_sign_test() -> None:
    assert (least_seeds(0.05), least_seeds(0.01)) == (6, 8)


def test_one_pair_has_no_interval() -> None:
    d = paired_difference([1.0])
    assert (d.low, d.high) == (-math.inf, math.inf)
    assert math.isnan(d.sd)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_differences_must_be_finite(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        paired_difference(values)


ALL_ABOVE = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95]


@pytest.mark.parametrize(
    ("differences", "least_effect", "test", "verdict"),
    [
        (ALL_ABOVE, 0.0, "sign", "reproduced"),
        (ALL_ABOVE, 0.9, "sign", "reproduced"),
        (ALL_ABOVE, 0.97, "sign", "undecided"),  # the interval reaches below the least effect
        (ALL_ABOVE, 1.2, "sign", "not reproduced"),
        ([-d for d in ALL_ABOVE], 0.0, "sign", "not reproduced"),
        ([1.0, -1.0, 0.5, -0.5, 0.1, -0.1], 0.0, "t", "undecided"),
        ([0.0] * 6, 0.0, "sign", "undecided"),  # no difference at all is no gain, but no loss either
        # the mean is clear, but one seed of six disagrees: enough for t, not for the sign test
        ([2.0, 2.1, 1.9, 2.0, 2.2, -0.1], 0.0, "t", "reproduced"),
        ([2.0, 2.1, 1.9, 2.0, 2.2, -0.1], 0.0, "sign", "undecided"),
        # six of six agree, but the mean is not clear of zero
        ([0.01, 0.01, 0.01, 0.01, 0.01, 9.0], 0.0, "sign", "undecided"),
    ],
)
def test_rule_of_the_verdict(differences: list[float], least_effect: float, test: str, verdict: str) -> None:
    assert judge(paired_difference(differences), least_effect, test, 0.05) == verdict  # type: ignore[arg-type]


def test_t_verdict_with_six_seeds_means_more_than_the_spread() -> None:
    """What the claim files mean by "more than the seed spread": mean / sd above t(.975, 5) / sqrt(6)."""
    bound = stats.t.ppf(0.975, 5) / math.sqrt(6)
    assert bound == pytest.approx(1.0494, abs=1e-4)
    values = [1.0, -1.0, 1.0, -1.0, 0.5, -0.5]
    sd = paired_difference(values).sd
    for factor, verdict in ((1.01, "reproduced"), (0.99, "undecided")):
        shifted = paired_difference([v + factor * bound * sd for v in values])
        assert judge(shifted, 0.0, "t", 0.05) == verdict


def test_overall_needs_every_predicate() -> None:
    assert overall(["reproduced", "reproduced"]) == "reproduced"
    assert overall(["reproduced", "undecided"]) == "undecided"
    assert overall(["reproduced", "undecided", "not reproduced"]) == "not reproduced"
    assert overall([]) == "undecided"
