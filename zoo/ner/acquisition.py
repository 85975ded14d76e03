"""Which sentences are worth asking for: the scores of Shen et al. (ICLR 2018, section 4) and how they rank.

Every function is of one sentence's real words: begin, end and padding give no score. Ties go to the lowest
index, so that a run repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

Acquisition = Literal[
    "mnlp", "lc", "bald", "bald_mi", "submod", "random", "entropy", "margin", "random_length", "random_entity"
]
LOWEST_FIRST = frozenset({"mnlp", "lc", "margin", "submod"})
"""Scores of which the smallest is asked first; of the others it is the largest."""
STOCHASTIC = frozenset({"bald", "bald_mi"})
"""Scores that need passes with dropout."""
UNSCORED = frozenset({"random", "random_length", "random_entity"})
"""Rivals that draw."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real words, (B, T) -> (B,); in double precision, so that padding cannot change a bit."""
    return (values.double() * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def log_probability(word_log_probs: Tensor, mask: Tensor) -> Tensor:
    """log P(y*|x) = sum_t log p(y*_t | y*_<t, x), (B, T) -> (B,)."""
    return (word_log_probs.double() * mask).sum(-1)


def mnlp(log_p: Tensor, lengths: Tensor) -> Tensor:
    """Maximum normalised log-probability, log P(y*) / n; the lowest is the least certain."""
    return log_p / lengths.clamp(min=1)


def least_confidence(log_p: Tensor) -> Tensor:
    """1 - P(y*), for showing. Ranking goes by log P: for long sentences P underflows and all tie at 1."""
    return -torch.expm1(log_p)


def variation_ratio(votes: Tensor, mask: Tensor) -> Tensor:
    """The paper's BALD: the mean over words of 1 - (passes that agree with the commonest tag) / M.

    Args:
        votes: tags of each pass, (M, B, T).
        mask: real words, (B, T).
    """
    tags = int(votes.max()) + 1
    counts = torch.stack([(votes == tag).sum(0) for tag in range(tags)])  # (K, B, T)
    return masked_mean(1 - counts.amax(0) / len(votes), mask)


def mutual_information(mean_p: Tensor, mean_entropy: Tensor, mask: Tensor) -> Tensor:
    """BALD as Houlsby et al. mean it: the mean over words of H[mean_m p^m] - mean_m H[p^m], in nats.

    Args:
        mean_p: mean distribution of the passes, (B, T, K).
        mean_entropy: mean of their entropies, (B, T).
        mask: real words, (B, T).
    """
    return masked_mean(entropy(mean_p) - mean_entropy, mask)


def entropy(p: Tensor) -> Tensor:
    """H[p] in nats, (..., K) -> (...)."""
    return -torch.special.xlogy(p, p).sum(-1)


def margin(p: Tensor) -> Tensor:
    """Difference of the two largest probabilities, (..., K) -> (...); 1 where there is one tag alone."""
    if p.shape[-1] < 2:
        return torch.ones_like(p[..., 0])
    first, second = p.topk(2, dim=-1).values.unbind(-1)
    return first - second


def ranking(scores: Sequence[float], indices: Sequence[int], lowest_first: bool) -> list[int]:
    """``indices`` in the order in which they are asked; ties by index."""
    sign = 1 if lowest_first else -1
    pairs = sorted(zip(scores, indices, strict=True), key=lambda pair: (sign * pair[0], pair[1]))
    return [index for _, index in pairs]


def take_budget(order: Sequence[int], costs: Sequence[float], budget: float) -> list[int]:
    """Walk down the ranking until the cost is at least ``budget``: whole sentences, over by at most one.

    Args:
        order: of the sentences.
        costs: of each sentence by its index.
        budget: of the round.
    """
    taken: list[int] = []
    spent = 0.0
    for index in order:
        if spent >= budget:
            break
        taken.append(index)
        spent += costs[index]
    return taken


def dissimilar(
    order: Sequence[int], vectors: Mapping[int, Tensor], costs: Sequence[float], budget: float, limit: float
) -> list[int]:
    """A ranking without repetitions: what lies too near to a sentence that is taken before comes last.

    Args:
        order: of the sentences.
        vectors: mean of h_enc of each, (D,).
        costs: of each sentence by its index.
        budget: that the taken ones reach.
        limit: the largest cosine to any sentence that is taken.

    Returns:
        All of ``order``.
    """
    taken: list[int] = []
    later: list[int] = []
    spent = 0.0
    unit = torch.nn.functional.normalize(torch.stack([vectors[i] for i in order]).double(), dim=1)
    nearest = torch.full((len(order),), -torch.inf, dtype=torch.double)
    for place, index in enumerate(order):
        if spent >= budget:
            return [*taken, *later, *order[place:]]
        if float(nearest[place]) > limit:
            later.append(index)
            continue
        taken.append(index)
        spent += costs[index]
        nearest = torch.maximum(nearest, unit @ unit[place])
    return [*taken, *later]


def coverage(chosen: Sequence[int], similarity: Tensor, weights: Tensor) -> float:
    """F(S) = sum_i u_i max_{j in S} (1 + cos(v_i, v_j)) / 2, 0 of no sentences; adding one never lowers
    it."""
    if not len(chosen):
        return 0.0
    return float((weights * similarity[:, list(chosen)].amax(1)).sum())


def submodular(vectors: Tensor, uncertainty: Tensor, costs: Sequence[float], budget: float) -> list[int]:
    """Uncertain sentences that represent the others: the greedy knapsack of F, positions in V in order.

    The better of two greedy sets, by gain per word and by plain gain; of equals the first. No overshoot.

    Args:
        vectors: of the candidates V, (N, D).
        uncertainty: u_i >= 0, (N,).
        costs: n_i of each.
        budget: that the chosen may not exceed.
    """
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    similarity = (1 + unit @ unit.T) / 2
    weights, cost = uncertainty.double(), torch.tensor(costs, dtype=torch.double)
    sets = [_greedy(similarity, weights, cost, budget, per_word) for per_word in (True, False)]
    values = [coverage(s, similarity, weights) for s in sets]
    return sets[0] if values[0] >= values[1] else sets[1]


def _greedy(similarity: Tensor, weights: Tensor, cost: Tensor, budget: float, per_word: bool) -> list[int]:
    chosen: list[int] = []
    covered = torch.zeros_like(weights)
    open_ = torch.ones_like(weights, dtype=torch.bool)
    left = float(budget)
    while True:
        fits = open_ & (cost <= left)
        if not bool(fits.any()):
            return chosen
        gain = ((similarity - covered[:, None]).clamp(min=0) * weights[:, None]).sum(0)
        value = gain / cost if per_word else gain
        best = int(value.masked_fill(~fits, -torch.inf).argmax())  # the first of equals
        chosen.append(best)
        open_[best] = False
        covered = torch.maximum(covered, similarity[:, best])
        left -= float(cost[best])


def matched_lengths(wanted: Sequence[int], lengths: Sequence[int], permutation: Sequence[int]) -> list[int]:
    """Random sentences of the lengths that a strategy asked for: a rival that shares its length bias.

    Args:
        wanted: lengths of what the strategy would ask.
        lengths: of all sentences, by index.
        permutation: of the pool; the first free sentence of the nearest length is taken.
    """
    free: dict[int, list[int]] = {}
    for index in reversed(permutation):
        free.setdefault(lengths[index], []).append(index)
    taken: list[int] = []
    for length in wanted:
        near = min((n for n in free if free[n]), key=lambda n: (abs(n - length), n), default=None)
        if near is None:
            break
        taken.append(free[near].pop())
    return taken
