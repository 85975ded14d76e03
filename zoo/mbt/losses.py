"""MBT's training losses and its mixup, as pure functions.

Tasks: ``multi_label`` (labels (B, C) of 0 and 1), ``single_label`` (classes (B,)) and ``verb_noun`` (classes
(B, 2), logits split into groups, as 97 verbs and 300 nouns of Epic-Kitchens).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.mbt.bottleneck import mean_of_present

Task = Literal["multi_label", "single_label", "verb_noun"]
TASKS = ("multi_label", "single_label", "verb_noun")


def targets(label: Tensor, task: Task, num_classes: int, groups: Sequence[int] = ()) -> Tensor:
    """Labels as soft targets, float32 (B, C)."""
    if task == "multi_label":
        return label.float()
    if task == "single_label":
        return F.one_hot(label, num_classes).float()
    return torch.cat([F.one_hot(label[:, i], size).float() for i, size in enumerate(groups)], dim=1)


def smoothed(target: Tensor, smoothing: float) -> Tensor:
    """t (1 - s) + s / C, also for multi-label targets."""
    return target * (1 - smoothing) + smoothing / target.shape[-1]


def sample_losses(
    logits: Tensor, target: Tensor, task: Task, smoothing: float = 0.0, groups: Sequence[int] = ()
) -> Tensor:
    """Loss of each sample, (B,): binary cross-entropy *summed* over classes, soft cross-entropy, or the mean
    of the groups' cross-entropies, each smoothed with its own class count."""
    logits = logits.float()
    if task == "multi_label":
        each = F.binary_cross_entropy_with_logits(logits, smoothed(target, smoothing), reduction="none")
        return each.sum(dim=1)
    parts = list(groups) if task == "verb_noun" else [logits.shape[1]]
    losses = [
        -(smoothed(t, smoothing) * x.log_softmax(dim=1)).sum(dim=1)
        for x, t in zip(logits.split(parts, dim=1), target.split(parts, dim=1), strict=True)
    ]
    return torch.stack(losses).mean(dim=0)


def training_loss(
    logits: Tensor,
    target: Tensor,
    task: Task,
    smoothing: float = 0.0,
    groups: Sequence[int] = (),
    present: Tensor | None = None,
) -> Tensor:
    """Mean over modalities of each one's loss, then over samples: not the loss of the mean logits.

    Args:
        logits: (B, M, C), or (B, 1, C) of one pooled vector.
        target: (B, M, C), one per modality, since per-modality mixup mixes labels apart.
        present: bool (B, M); a sample without any modality counts as loss 0.
    """
    if logits.shape[1] != target.shape[1]:  # one pooled vector of several modalities
        target, present = target.mean(dim=1, keepdim=True), None
    losses = [
        sample_losses(logits[:, i], target[:, i], task, smoothing, groups) for i in range(logits.shape[1])
    ]
    return mean_of_present(torch.stack(losses, dim=1), present).mean()


def mixup_weights(seed: int, alpha: float, modalities: int, groups: int, independent: bool) -> Tensor:
    """w ~ Beta(alpha, alpha) of each group, (M, groups); ``independent`` draws one per modality (mixmod)."""
    rng = np.random.Generator(np.random.Philox(seed))
    draws = rng.beta(alpha, alpha, size=(modalities if independent else 1, groups))
    return torch.from_numpy(np.repeat(draws, modalities // len(draws), axis=0)).float()


def mixup_partners(rows: int, groups: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
    """Partner of each local row and its group, int64 (rows,) both.

    The global batch is dealt into ``groups`` by row number modulo groups; inside each the partner of member k
    is member -(k + 1), and the middle one of an odd number is its own. Row r of this rank is row
    r * world_size + rank of the global batch: where the world size divides ``groups``, all partners are
    local, and the batch is mixed alike on any such number of devices.
    """
    group = (torch.arange(rows) * world_size + rank) % groups
    partner = torch.empty(rows, dtype=torch.int64)
    for g in group.unique():
        members = (group == g).nonzero()[:, 0]
        partner[members] = members.flip(0)
    return partner, group


def mixed(x: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """w x + (1 - w) x[partner]; weight (B,)."""
    w = weight.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return w * x + (1 - w) * x[partner]
