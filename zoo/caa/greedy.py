"""Greedy ensembles (AutoAE: Liu, Peng & Tang, AAAI 2023): most new successes per backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo.caa.archive import key_of
from zoo.caa.space import GENES, Space

Array = np.ndarray[Any, Any]


def candidates(space: Space, prefix: Sequence[int] = ()) -> Array:
    """Genomes (C + 1, 3 N): the prefix itself, then the prefix and one more attacker of each kind and length.

    Attackers come at full magnitude, corruptions at each severity.

    Args:
        space: of policies.
        prefix: genes of the attackers that were chosen before.
    """
    shown = [list(prefix), *([*prefix, *gene] for gene in space.singles())]
    skip = space.skip
    return np.array([genes + [skip, 0, 0] * (space.length - len(genes) // GENES) for genes in shown])


def choose(space: Space, tried: Array, archive: Mapping[str, Sequence[int]]) -> tuple[int, ...] | None:
    """The canonical genome of most new successes per backward pass; None where nothing fools another image.

    Args:
        space: of policies.
        tried: :func:`candidates`, the first of which is what there is without any of them.
        archive: key of each policy -> images right, images, backward passes.
    """
    genomes = [space.canonical(genome) for genome in tried]
    before, _, spent = archive[key_of(genomes[0])]
    found: tuple[float, tuple[int, ...]] | None = None
    for genome in genomes[1:]:
        if key_of(genome) not in archive:  # max_evaluations left it out
            continue
        right, _, cost = archive[key_of(genome)]
        rate = (before - right) / max(cost - spent, 1)
        if rate > (found[0] if found else 0):
            found = rate, genome
    return found[1] if found else None
