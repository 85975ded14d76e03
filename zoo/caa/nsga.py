"""NSGA-II (Deb et al., IEEE TEC 2002) for two or more objectives that are minimised, on integer genomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def fronts(objectives: Array) -> list[list[int]]:
    """Indices of each non-dominated front, the best first; objectives (P, M)."""
    no_worse = np.all(objectives[:, None] <= objectives[None], axis=2)
    better = np.any(objectives[:, None] < objectives[None], axis=2)
    dominates: Array = no_worse & better
    left, found = dominates.sum(axis=0), []
    current = [int(i) for i in (left == 0).nonzero()[0]]
    while current:
        found.append(current)
        left = left - dominates[current].sum(axis=0)
        left[current] = -1
        current = [int(i) for i in (left == 0).nonzero()[0]]
    return found


def crowding(objectives: Array) -> Array:
    """Crowding distance of each member of one front (F, M) -> (F,).

    The sum over objectives of (f[i + 1] - f[i - 1]) / (f_max - f_min), infinite at both ends; an objective in
    which all are equal is left out.
    """
    distance = np.zeros(len(objectives))
    for values in objectives.T:
        order = values.argsort(kind="stable")
        span = values[order[-1]] - values[order[0]]
        if span == 0:
            continue
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
    return distance


def survivors(objectives: Array, count: int) -> list[int]:
    """Whole fronts in their order; of the one that does not fit, those of greatest crowding distance."""
    kept: list[int] = []
    for front in fronts(objectives):
        room = count - len(kept)
        if len(front) > room:
            order = (-crowding(objectives[front])).argsort(kind="stable")
            front = [front[int(i)] for i in order[:room]]
        kept += front
        if len(kept) == count:
            break
    return kept


def ranking(objectives: Array) -> tuple[Array, Array]:
    """Rank of the front and crowding distance inside it, of every individual (P,)."""
    rank, distance = np.zeros(len(objectives), dtype=int), np.zeros(len(objectives))
    for number, front in enumerate(fronts(objectives)):
        rank[front], distance[front] = number, crowding(objectives[front])
    return rank, distance


def tournament(rank: Array, distance: Array, random: np.random.Generator) -> int:
    """The better of two: lower rank, then greater distance."""
    a, b = (int(i) for i in random.integers(len(rank), size=2))
    return a if (rank[a], -distance[a]) <= (rank[b], -distance[b]) else b


def crossed(a: Array, b: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """Two-point crossover."""
    first, second = sorted(int(i) for i in random.integers(len(a) + 1, size=2))
    left, right = a.copy(), b.copy()
    left[first:second], right[first:second] = b[first:second], a[first:second]
    return left, right


def mutated(genome: Array, choices: Sequence[int], rate: float, random: np.random.Generator) -> Array:
    """Each gene drawn anew, uniformly, with probability ``rate``; gene i is one of ``choices[i]`` numbers."""
    drawn = random.integers(np.asarray(choices))
    return np.where(random.random(len(genome)) < rate, drawn, genome)


def offspring(
    population: Array,
    objectives: Array,
    choices: Sequence[int],
    crossover: float,
    mutation: float,
    random: np.random.Generator,
) -> Array:
    """As many children as there are parents (P, G)."""
    rank, distance = ranking(objectives)
    children: list[Array] = []
    while len(children) < len(population):
        a, b = (population[tournament(rank, distance, random)] for _ in range(2))
        pair = crossed(a, b, random) if random.random() < crossover else (a, b)
        children += [mutated(child, choices, mutation, random) for child in pair]
    return np.stack(children[: len(population)])


def hypervolume(objectives: Array, reference: tuple[float, float] = (1.0, 1.0)) -> float:
    """Area that two objectives dominate below the reference point."""
    inside = objectives[(objectives < np.asarray(reference)).all(axis=1)]
    area, ceiling = 0.0, reference[1]
    for first, second in inside[np.lexsort(inside.T[::-1])]:
        if second < ceiling:
            area += (reference[0] - first) * (ceiling - second)
            ceiling = second
    return float(area)
