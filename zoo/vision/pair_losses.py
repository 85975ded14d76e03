"""Losses of pairs of pictures and texts: CLIP (Radford et al., ICML 2021), SigLIP (Zhai et al., ICCV 2023).

Each process has the rows of its own pairs against the columns of all; the mean over processes, which DDP
takes of the gradients, is the loss of the global batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SCALE, MOST_SCALE = math.log(1 / 0.07), math.log(100)
"""s of CLIP at first, 2.6593, and its bound."""
SIGMOID_SCALE, SIGMOID_BIAS = math.log(10), -10.0
"""t' and b of SigLIP at first."""


def same_pairs(image: Tensor, caption: Tensor, images: Tensor, captions: Tensor) -> Tensor:
    """Which of N pairs have the picture or the caption of a row, bool (B, N).

    Args:
        image: numbers of the rows' pictures, (B,).
        caption: of their captions, (B,).
        images: of all pairs, (N,).
        captions: likewise.
    """
    return (image[:, None] == images) | (caption[:, None] == captions)


def softmax_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy with the uniform distribution over a row's positives.

    Args:
        logits: (B, N).
        positive: bool (B, N), one or more in each row; CLIP's own has the diagonal alone.
    """
    target = positive.to(logits.dtype) / positive.sum(dim=1, keepdim=True)
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


def sigmoid_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """-mean over rows of the sum over columns of log sigmoid(z logits), z 1 of a positive and else -1.

    Args:
        logits: (B, N).
        positive: bool (B, N).
    """
    sign = 2 * positive.to(logits.dtype) - 1
    return -functional.logsigmoid(sign * logits).sum(dim=1).mean()


def unit(features: Tensor) -> Tensor:
    """Rows of length 1."""
    return functional.normalize(features.float(), dim=-1)


def diagonal(rows: int, columns: int, rank: int = 0, world: int = 1) -> Tensor:
    """A process's own pairs among all, bool (B, N): rank, rank + world and so on."""
    found = torch.zeros(rows, columns, dtype=torch.bool)
    found[torch.arange(rows), rank + world * torch.arange(rows)] = True
    return found
