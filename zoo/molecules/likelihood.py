"""Cross-entropy of token sequences whose padding counts for nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoo.molecules.tokens import PAD
from zoo.nn.processes import place, total


def sequence_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of each sequence in nats: logits (B, T, V), labels (B, T) -> (B,)."""
    found = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return (found.view_as(labels) * (labels != PAD)).sum(dim=1)


def token_mean(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy of the tokens of the global batch, whose gradient the processes average.

    A process with longer sequences counts by its tokens, so that several processes do what one does.

    Args:
        logits: (B, T, V).
        labels: (B, T), PAD where there is no token.
        smoothing: of the labels.
    """
    summed = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=PAD, reduction="sum",
        label_smoothing=smoothing,
    )  # fmt: skip
    tokens = total((labels != PAD).sum().to(torch.float32))
    return summed * place()[1] / tokens
