"""Everything that a search has measured, each policy once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.caa.space import Space

Array = np.ndarray[Any, Any]


def key_of(genome: Sequence[int]) -> str:
    """A canonical genome as text."""
    return " ".join(map(str, genome))


def genome_of(key: str) -> tuple[int, ...]:
    """And back."""
    return tuple(map(int, key.split()))


class Archive(dict[str, list[int]]):
    """Canonical genome as text -> images that stay right, images, nominal backward passes of an image.

    Args:
        unit: backward passes that count 1 in f2.
        found: what is in it.
    """

    def __init__(self, unit: float, found: Mapping[str, list[int]] | None = None) -> None:
        super().__init__(found or {})
        self.unit = unit

    @property
    def images(self) -> int:
        """Of a policy that was measured to its end."""
        return max(images for _, images, _ in self.values())

    def objectives(self, keys: Sequence[str]) -> Array:
        """f1 and f2 of policies (K, 2)."""
        rows = (self[key] for key in keys)
        return np.array([(right / max(n, 1), cost / self.unit) for right, n, cost in rows]).reshape(-1, 2)

    def points(self) -> Array:
        """f1 and f2 of all (A, 2)."""
        return self.objectives(list(self))

    def outdoes(self, right: int, cost: int, images: int) -> bool:
        """Whether something that saw all ``images`` is no worse in both and better in one."""
        return any(n == images and c <= right and b <= cost and (c, b) != (right, cost)
                   for c, n, b in self.values())  # fmt: skip

    def untried(self, space: Space, count: int, random: np.random.Generator) -> list[Array]:
        """At most ``count`` genomes, drawn uniformly, of policies that differ and are not in it."""
        fresh: dict[str, Array] = {}
        for genome in space.random(50 * count, random):
            key = key_of(space.canonical(genome))
            if key not in self and len(fresh) < count:
                fresh.setdefault(key, genome)
        return list(fresh.values())
