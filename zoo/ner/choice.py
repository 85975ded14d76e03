"""Which sentences of a pool a strategy asks for, given what the model says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from zoo.ner import acquisition as scores
from zoo.randomness import generator, global_seed

_ORDER, _SAMPLE = 712, 713
Found = tuple[float, float, list[int], torch.Tensor]
"""Score, MNLP, tags and mean vector of a sentence."""
Score = Callable[[Sequence[int], str], Mapping[int, Found]]


def choose(
    h: Mapping[str, Any], data: Any, score: Score
) -> tuple[list[int], dict[int, float], dict[int, list[int]]]:
    """The next query; orders of chance are functions of (seed, round).

    Args:
        h: arguments of the module.
        data: with ``pool``, ``lengths`` and, where people answer, ``oracle: human``.
        score: (indices, name of the score) -> what the model says of them.

    Returns:
        Indices in order, their scores, and the tags that the model guesses.

    Raises:
        ValueError: for scores that are no finite numbers.
    """
    pool, name = data.pool, h["acquisition"]
    members, shuffled = _members(pool, h["pool_sample"])
    human = getattr(data, "oracle", "simulated") == "human"  # who is given a first draft
    if name == "random" and not human:
        return scores.take_budget(shuffled, pool.costs, pool.budget), {}, {}
    found = score(members, name)
    values = {i: row[0] for i, row in found.items()}
    if not all(map(math.isfinite, values.values())):
        raise ValueError(
            f"after round {pool.round} the model's scores are no finite numbers: the training "
            "diverged; lower the learning rate or set trainer.gradient_clip_val"
        )
    tags = {i: row[2] for i, row in found.items()}
    ranked = scores.ranking([values[i] for i in members], members, name in {*scores.LOWEST_FIRST, *_RIVALS})
    if name == "random":
        order = shuffled
    elif name == "random_length":
        wanted = [data.lengths[i] for i in scores.take_budget(ranked, pool.costs, pool.budget)]
        order = _first(scores.matched_lengths(wanted, data.lengths, shuffled), shuffled)
    elif name == "random_entity":
        outside = h["tags"].index("O")
        order = _first([i for i in shuffled if any(t != outside for t in tags[i])], shuffled)
    elif h["max_similarity"] is not None:
        vectors = {i: row[3] for i, row in found.items()}
        order = scores.dissimilar(ranked, vectors, pool.costs, pool.budget, h["max_similarity"])
    else:
        order = ranked
    chosen = scores.take_budget(order, pool.costs, pool.budget)
    if name == "submod":
        chosen = representative(pool, ranked, found, h["candidates"]) or chosen
    return chosen, values if name not in scores.UNSCORED else {}, tags


_RIVALS = ("random_length",)  # ranks by MNLP, whose lengths it takes


def _members(pool: Any, size: int | None) -> tuple[list[int], list[int]]:
    """What is scored of a pool, by index and in an order of chance."""
    key, every = (global_seed(), pool.round), pool.unlabelled
    order = torch.randperm(len(every), generator=generator(_ORDER, *key)).tolist()
    shuffled = [every[i] for i in order]
    if size is None or size >= len(every):
        return every, shuffled
    places = torch.randperm(len(every), generator=generator(_SAMPLE, *key)).tolist()[:size]
    kept = {every[i] for i in places}
    return sorted(kept), [i for i in shuffled if i in kept]


def representative(
    pool: Any, ranked: Sequence[int], found: Mapping[int, Found], candidates: int
) -> list[int]:
    """Submod's choice among the candidates V, those of so many budgets; empty where none fits the budget."""
    chosen = sorted(scores.take_budget(ranked, pool.costs, candidates * pool.budget))
    uncertainty = -torch.tensor([found[i][1] for i in chosen], dtype=torch.double)
    vectors = torch.stack([found[i][3] for i in chosen])
    costs = [pool.costs[i] for i in chosen]
    places = scores.submodular(vectors, uncertainty - uncertainty.min(), costs, pool.budget)
    return [chosen[p] for p in places]


def _first(preferred: Sequence[int], every: Sequence[int]) -> list[int]:
    """``preferred``, then the others in their order."""
    before = set(preferred)
    return [*preferred, *(i for i in every if i not in before)]
