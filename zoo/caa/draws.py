"""Random numbers of an attack: each is a pure function of (image, place in the attack), whatever the batch.

A counter-based generator, the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), vectorised over
images: neither the batch size, nor which images have left the attack, nor the number of processes changes
what an image meets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 words; products wrap."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        words = (words ^ _shifted(words, shift)) * factor
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, by: int) -> Tensor:
    """Logical shift to the right, which int64 has not."""
    return (words >> by) & ((1 << (64 - by)) - 1)


def image_keys(seed: int, index: Tensor) -> Tensor:
    """int64 (N,): a key for each image's number ``index`` (N,)."""
    return _mixed(_mixed(index.long() * _GOLDEN + _signed(seed % 2**64)) + _GOLDEN)


def derived(keys: Tensor, *place: int) -> Tensor:
    """Keys of a place in the attack: the attacker's position, a target's rank, an iteration."""
    for number in (len(place), *place):
        keys = _mixed(keys + _signed((number * 0x9E3779B97F4A7C15 + 1) % 2**64))
    return keys


def uniform(keys: Tensor, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Tensor:
    """float32 (N, *shape), uniform in [low, high), a row for each key."""
    count = math.prod(shape)
    places = torch.arange(1, count + 1, device=keys.device) * _GOLDEN
    bits = _shifted(_mixed(keys[:, None] + places), 40)  # 24 bits: what float32 holds exactly
    return (low + (high - low) * bits.float() / 2**24).view(len(keys), *shape)


def normal(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """float32 (N, *shape), standard normal (Box-Muller)."""
    radius = (-2 * (1 - uniform(derived(keys, 1), shape)).log()).sqrt()  # 1 - u is never 0
    return radius * (2 * math.pi * uniform(derived(keys, 2), shape)).cos()


def signs(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """float32 (N, *shape) of -1 and +1."""
    return torch.where(uniform(keys, shape) < 0.5, -1.0, 1.0)
