"""Numbers of a learning curve, and the stopping rule's."""

from __future__ import annotations

import math

import pytest

from zoo.ner.curves import area_under, kappa, stabilised, words_to_reach
from zoo.ner.history import summary


def test_area_is_a_mean_over_the_shared_range() -> None:
    assert area_under([0, 10, 30], [0.0, 1.0, 1.0]) == pytest.approx((5 + 20) / 30)
    # another end: the last piece is cut where it stands, not where it ends
    assert area_under([0, 10, 30], [0.0, 1.0, 0.0], end=20) == pytest.approx((5 + 7.5) / 20)
    assert area_under([0, 10], [0.4, 0.4], end=10.5) == pytest.approx(0.4)
    assert math.isnan(area_under([5], [0.3]))


def test_words_to_reach_is_the_first_crossing() -> None:
    assert words_to_reach([10, 20, 30], [0.2, 0.6, 0.5], 0.4) == pytest.approx(15)
    assert words_to_reach([10, 20], [0.5, 0.6], 0.4) == 10
    assert words_to_reach([10, 20], [0.1, 0.2], 0.4) == math.inf


def test_kappa_corrects_for_chance() -> None:
    assert kappa([0, 0, 1, 1], [0, 0, 1, 1]) == 1
    assert kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0
    assert kappa([0, 0, 0, 1], [0, 0, 1, 1]) == pytest.approx((0.75 - 0.5) / 0.5)
    assert kappa([0] * 9, [0] * 9) is None  # nothing found twice is no agreement
    assert kappa([0] * 9, [1] * 9) == 0


def test_the_rule_waits_for_three_rounds() -> None:
    assert not stabilised([1.0, 1.0], 0.99)
    assert stabilised([0.2, 0.99, 0.99, 0.99], 0.99)
    assert not stabilised([0.99, 0.97, 0.99], 0.99)
    assert not stabilised([1.0, None, 1.0], 0.0)


def test_numbers_of_a_run_end_where_every_arm_has_been() -> None:
    rows = [
        {
            "round": 0,
            "sentences": 1,
            "words": 10,
            "f1": 0.0,
            "asked": 2,
            "asked_words": 5.0,
            "pool_words": 4.0,
        },
        {"round": 1, "sentences": 2, "words": 21, "f1": None},
        {"round": 2, "sentences": 3, "words": 34, "f1": 0.6},
    ]
    found = summary(rows, budget=10, target=0.5)
    # two budgets after the seed set: at 30 words F1 is .5 on the line from (10, 0) to (34, .6)
    assert found["area"] == pytest.approx(0.25)
    assert found["words_to_target"] == pytest.approx(30)
    assert (found["target_reached"], found["words"]) == (1, 34)
    # where labels have a cost, F1 is over that
    dear = [{**row, "cost": 2.0 * row["words"] + 6} for row in rows]  # type: ignore[operator]
    by_cost = summary(dear, budget=20.0, target=0.5)
    assert by_cost["area"] == pytest.approx(0.25)
    assert by_cost["cost_to_target"] == pytest.approx(66)
    assert "words_to_target" not in by_cost
    never = summary(rows, budget=10, target=0.9)
    assert (never["target_reached"], never["words_to_target"]) == (0, 30)
    assert found["first_asked_words"] == 5
