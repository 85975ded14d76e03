"""Several documents in one row: which token sees which, and which are scored."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100
"""Label of a token that is not scored."""


def attention_mask(documents: Tensor) -> Tensor:
    """Bool (B, 1, T, T): whether the token of a row sees that of a column.

    It sees those of its own document up to itself. Padding, document 0, sees itself alone: a softmax over
    nothing would be NaN.

    Args:
        documents: (B, T), the number of each token's document within its row, 0 of padding.
    """
    length = documents.shape[1]
    same = (documents[:, :, None] == documents[:, None, :]) & (documents > 0)[:, None, :]
    itself = torch.eye(length, dtype=torch.bool, device=documents.device)
    causal = torch.ones(length, length, dtype=torch.bool, device=documents.device).tril()
    return ((same & causal) | itself)[:, None]


def is_plain(documents: Tensor | None, positions: Tensor | None) -> bool:
    """Whether each row is one document from position 0 on, without padding: causal attention is all."""
    if documents is not None and not bool((documents == 1).all()):
        return False
    if positions is None:
        return True
    return bool((positions == torch.arange(positions.shape[1], device=positions.device)).all())


def shifted(labels: Tensor) -> Tensor:
    """What each place is to predict, (B, T): the label of the next one; nothing at the last."""
    end = labels.new_full((len(labels), 1), IGNORED)
    return torch.cat([labels[:, 1:], end], dim=1)
