"""How streams of tokens exchange information: bottleneck tokens, cross-attention, joint self-attention.

A stream is the tokens (B, N_i, D) of one modality, a layer one transformer block per modality. ``present``
(B, M) says which modalities a sample has; None is all. Absent streams are computed, and reach nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

BottleneckUpdate = Literal["mean", "sequential"]


def bottleneck_layer(
    blocks: Sequence[Any],
    streams: Sequence[Tensor],
    bottleneck: Tensor,
    update: BottleneckUpdate = "mean",
    present: Tensor | None = None,
) -> tuple[list[Tensor], Tensor]:
    """One fusion layer with bottleneck tokens (B, K, D), section 3.3 of the paper.

    ``mean``: [z_i' ; b_i] = Block_i([z_i ; z_fsn]) for all i at once, each from the same z_fsn; then
    z_fsn' = mean_i b_i over the present modalities. ``sequential``: modality by modality in the given order,
    each takes the tokens that the one before left.
    """
    moved, copies = [], []
    for i, (block, z) in enumerate(zip(blocks, streams, strict=True)):
        joint = block(torch.cat([z, bottleneck], dim=1))
        moved.append(joint[:, : z.shape[1]])
        copies.append(joint[:, z.shape[1] :])
        if update == "sequential":
            bottleneck = _chosen(present, i, copies[-1], bottleneck)
    if update == "sequential":
        return moved, bottleneck
    return moved, mean_of_present(torch.stack(copies, dim=1), present)


def cross_attention_layer(
    blocks: Sequence[Any], streams: Sequence[Tensor], present: Tensor | None = None
) -> list[Tensor]:
    """Queries of z_i alone, keys and values of [z_j, j != i ; z_i]; all read the streams before the layer."""
    moved = []
    for i, (block, z) in enumerate(zip(blocks, streams, strict=True)):
        order = [j for j in range(len(streams)) if j != i] + [i]
        others = [streams[j] for j in order[:-1]]
        mask = key_mask([streams[j] for j in order], order, present)
        moved.append(block(z, torch.cat(others, dim=1) if others else None, mask))
    return moved


def key_mask(streams: Sequence[Tensor], order: Sequence[int], present: Tensor | None) -> Tensor | None:
    """Which keys of the concatenated streams count, bool (B, 1, 1, N); None for all of them.

    Of a sample without any of these streams all count: a softmax over nothing is no number.
    """
    if present is None:
        return None
    parts = [present[:, j, None].expand(-1, z.shape[1]) for j, z in zip(order, streams, strict=True)]
    mask = torch.cat(parts, dim=1)
    return (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]


def mean_of_present(copies: Tensor, present: Tensor | None) -> Tensor:
    """Mean over dimension 1 of (B, M, ...), of the modalities that a sample has; 0 where it has none."""
    if present is None:
        return copies.mean(dim=1)
    weight = present.to(copies.dtype).view(*present.shape, *[1] * (copies.ndim - 2))
    # where, not times: an absent stream may hold infinities
    kept = torch.where(weight > 0, copies, torch.zeros_like(copies))
    return kept.sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def _chosen(present: Tensor | None, modality: int, new: Tensor, old: Tensor) -> Tensor:
    return new if present is None else torch.where(present[:, modality, None, None], new, old)


def temporal_indices(frames: int, wanted: int) -> list[int]:
    """Frames that the network keeps of ``frames``: round(k F / (n + 1)) for k = 1..n, halves to even.

    With n >= F all F stay, and the number of tokens follows F. Exactly n indices otherwise: the official
    float ``arange`` can give one more.
    """
    if wanted >= frames:
        return list(range(frames))
    step = frames / (wanted + 1)
    return [min(round(k * step), frames - 1) for k in range(1, wanted + 1)]
