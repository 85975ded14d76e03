"""Similarity of texts by the vectors of their words: average, extrema, greedy (Liu et al., EMNLP 2016)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def average(a: Tensor, b: Tensor) -> Tensor:
    """cos(mean of a, mean of b) of word vectors (N, d) and (M, d)."""
    return functional.cosine_similarity(a.mean(dim=0), b.mean(dim=0), dim=0)


def extrema(a: Tensor, b: Tensor) -> Tensor:
    """cos of the vectors that take, in each dimension, the value of largest absolute value."""
    return functional.cosine_similarity(_extreme(a), _extreme(b), dim=0)


def _extreme(vectors: Tensor) -> Tensor:
    return vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))[0]


def greedy(a: Tensor, b: Tensor) -> Tensor:
    """Mean of both directions of mean_i max_j cos(a_i, b_j)."""
    cosines = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T
    return (cosines.amax(dim=1).mean() + cosines.amax(dim=0).mean()) / 2


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """(average, extrema, greedy), (3,); 0 where a text has no word."""
    if not len(a) or not len(b):
        return torch.zeros(3, device=a.device)
    return torch.stack([average(a, b), extrema(a, b), greedy(a, b)])
