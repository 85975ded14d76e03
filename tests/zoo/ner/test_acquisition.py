"""Who is asked: the paper's scores with the numbers of the traps (signs, length, underflow, padding,
budget)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from zoo.ner.acquisition import (
    LOWEST_FIRST,
    coverage,
    dissimilar,
    entropy,
    least_confidence,
    log_probability,
    margin,
    matched_lengths,
    mnlp,
    mutual_information,
    ranking,
    submodular,
    take_budget,
    variation_ratio,
)


def scored(*sentences: tuple[float, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log P, MNLP and lengths of sentences with one probability at every word."""
    lengths = torch.tensor([n for _, n in sentences])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    words = torch.tensor([[math.log(p)] for p, _ in sentences]).expand(-1, mask.shape[1])
    log_p = log_probability(words, mask)
    return log_p, mnlp(log_p, lengths), lengths


def test_the_uncertain_sentence_is_asked_first_by_every_score() -> None:
    log_p, normalised, _ = scored((0.99, 10), (0.5, 10))
    sure = torch.tensor([0.99, 0.01]).expand(10, 2)
    unsure = torch.tensor([0.5, 0.5]).expand(10, 2)
    values = {
        "lc": log_p.tolist(),
        "mnlp": normalised.tolist(),
        "entropy": [float(entropy(p).mean()) for p in (sure, unsure)],
        "margin": [float(margin(p).mean()) for p in (sure, unsure)],
        "bald": [0.01, 0.5],
    }
    for name, scores in values.items():
        assert ranking(scores, [0, 1], name in LOWEST_FIRST)[0] == 1, name


def test_lc_prefers_long_sentences_and_mnlp_ties() -> None:
    log_p, normalised, _ = scored((0.9, 5), (0.9, 50))
    assert least_confidence(log_p).tolist() == pytest.approx([0.40951, 0.99485], abs=1e-5)
    assert normalised.tolist() == pytest.approx([-0.1053605] * 2, abs=1e-7)
    assert ranking(log_p.tolist(), [7, 9], lowest_first=True) == [9, 7]
    assert ranking([-0.1053605] * 2, [7, 9], lowest_first=True) == [7, 9]  # ties by index


def test_log_p_still_orders_where_the_probability_underflows() -> None:
    p = math.exp(-0.55144)
    log_p, _, _ = scored((p, 790), (p, 800))
    assert float(log_p[1]) == pytest.approx(-441.15, abs=0.01)
    assert least_confidence(log_p.float()).tolist() == [1.0, 1.0]
    assert ranking(log_p.tolist(), [0, 1], lowest_first=True) == [1, 0]


def test_padding_gives_no_score() -> None:
    words, mask = torch.rand(3, 7).log(), torch.arange(7) < torch.tensor([[7], [4], [1]])
    padded = torch.cat([words, torch.full((3, 20), -5.0)], 1)
    wide = torch.cat([mask, torch.zeros(3, 20, dtype=torch.bool)], 1)
    assert torch.equal(log_probability(words, mask), log_probability(padded, wide))


def test_variation_ratio_counts_words_not_sequences() -> None:
    # 4 passes; word 1: 3 of 4 agree, word 2: 2 of 4, word 3 is padding
    votes = torch.tensor([[[0, 1, 5]], [[0, 2, 4]], [[0, 1, 3]], [[1, 3, 2]]])
    mask = torch.tensor([[True, True, False]])
    assert float(variation_ratio(votes, mask)) == pytest.approx((0.25 + 0.5) / 2)
    same = votes[:1].expand(4, -1, -1)
    assert float(variation_ratio(same, mask)) == 0


def test_mutual_information_is_nothing_where_the_passes_agree() -> None:
    p = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]], dtype=torch.double)
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert float(mutual_information(p, entropy(p), mask)) == pytest.approx(0, abs=1e-12)
    one, two = (torch.tensor([[[a, 1 - a]]], dtype=torch.double) for a in (1.0, 0.0))
    mean = (one + two) / 2
    got = mutual_information(mean, (entropy(one) + entropy(two)) / 2, mask[:, :1])
    assert float(got) == pytest.approx(math.log(2))


def test_the_budget_takes_whole_sentences_and_is_over_by_at_most_one() -> None:
    costs = [5, 7, 3, 9, 4]
    assert take_budget([3, 0, 1, 2, 4], costs, 14) == [3, 0]  # exactly reached
    assert take_budget([3, 0, 1, 2, 4], costs, 15) == [3, 0, 1]
    assert take_budget([0, 1], costs, 100) == [0, 1]
    assert take_budget([0, 1], costs, 0) == []


def test_near_copies_are_asked_last() -> None:
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    vectors = {3: x, 5: x + 0.1 * y, 7: y, 8: -x}
    costs = [4] * 9
    assert dissimilar([3, 5, 7, 8], vectors, costs, 12, 0.9) == [3, 7, 8, 5]
    assert dissimilar([3, 5, 7, 8], vectors, costs, 5, 0.9) == [3, 7, 5, 8]  # the budget is reached by two
    assert dissimilar([3, 5, 7, 8], vectors, costs, 12, 0.999) == [3, 5, 7, 8]
    assert dissimilar([5, 3], {3: x, 5: 2 * x}, costs, 12, 0.9) == [5, 3]


def test_submodular_choice_covers_and_keeps_the_budget() -> None:
    g = torch.Generator().manual_seed(0)
    groups = torch.eye(3).repeat_interleave(4, 0) + 0.01 * torch.rand(12, 3, generator=g)
    costs = [4] * 12
    chosen = submodular(groups, torch.ones(12), costs, 12)
    assert sorted(i // 4 for i in chosen) == [0, 1, 2]  # one of each group, no overshoot
    assert submodular(groups, torch.ones(12), costs, 3) == []
    unit = torch.nn.functional.normalize(torch.randn(9, 4, generator=g, dtype=torch.double), dim=1)
    similarity, weights = (1 + unit @ unit.T) / 2, torch.rand(9, generator=g, dtype=torch.double)
    values = [coverage(range(k), similarity, weights) for k in range(10)]
    assert values[0] == 0
    assert all(a <= b for a, b in itertools.pairwise(values))
    # the same objective by brute force over pairs: the greedy set is within 1 - 1/e of the best
    best = max(coverage([i, j], similarity, weights) for i in range(9) for j in range(i))
    got = coverage(submodular(unit, weights, [1] * 9, 2), similarity, weights)
    assert got >= (1 - 1 / math.e) * best


def test_knapsack_takes_the_better_of_the_two_greedy_sets() -> None:
    # per word the cheap sentence comes first and then the dear, better one no longer fits
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    chosen = submodular(vectors, torch.tensor([0.1, 1.0]), [1, 10], 10)
    assert chosen == [1]


def test_the_rival_has_the_lengths_that_the_strategy_asked_for() -> None:
    lengths = [3, 9, 4, 9, 3, 5]
    assert matched_lengths([9, 3, 9], lengths, [5, 4, 3, 2, 1, 0]) == [3, 4, 1]
    assert matched_lengths([8], lengths, [0, 5, 1]) == [1]
