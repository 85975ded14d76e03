"""Which tokens a masked language model has to find: BERT's draw, a function of its generator alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
IGNORED = -100
"""Label of a position that the loss leaves out."""
_MASKED, _REPLACED = 0.8, 0.9


def chosen(
    maskable: Array, share: float, generator: np.random.Generator, spans: Sequence[tuple[int, int]] = ()
) -> Array:
    """Positions that are to be found, bool (L,): each of ``maskable`` with probability ``share``.

    Args:
        maskable: bool (L,), False at special tokens.
        share: of the positions.
        generator: of the item.
        spans: entities, (first, behind the last): each is chosen as a whole or not at all, with the same
            probability; what lies in none is drawn by itself.
    """
    found: Array = generator.random(len(maskable)) < share
    for first, end in spans:
        found[first:end] = found[first] if first < len(found) else False
    return found & maskable


def masked(
    ids: Array, where: Array, generator: np.random.Generator, mask: int, first: int, count: int
) -> tuple[Array, Array]:
    """(input, labels): of the chosen positions 80 % become ``mask``, 10 % a random token, 10 % stay.

    Args:
        ids: int64 (L,).
        where: bool (L,), of :func:`chosen`.
        generator: of the item.
        mask: id.
        first: of the random tokens, the lowest id.
        count: of the random tokens.
    """
    kind, drawn = generator.random(len(ids)), generator.integers(first, first + count, len(ids))
    put = np.where(kind < _MASKED, mask, np.where(kind < _REPLACED, drawn, ids))
    return np.where(where, put, ids), np.where(where, ids, IGNORED)
