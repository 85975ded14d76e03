"""Random numbers of many items at once, each item's a function of its own seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def uniforms(seeds: Array, count: int) -> Array:
    """``count`` numbers in (0, 1) for each seed, float64 (B, count): SplitMix64 (Steele et al. 2014).

    Args:
        seeds: uint64 (B,), of :func:`datamodules.loading.sampling.item_seeds`.
        count: numbers of an item.
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = seeds.astype(np.uint64)[:, None] + steps
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def normals(u: Array) -> Array:
    """Standard normal numbers of uniform ones."""
    from scipy.special import ndtri

    return np.asarray(ndtri(u))
