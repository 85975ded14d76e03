"""Log-likelihoods of tokens."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from zoo.language.packing import IGNORED, shifted


def token_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p of each scored token at the place that predicts it, (B, T) in 32 bits; 0 elsewhere.

    Args:
        logits: (B, T, V) of the token after each place.
        labels: (B, T) at the places of the tokens themselves, -100 where not scored; they are shifted here,
            once.
    """
    wanted = shifted(labels)
    nll = functional.cross_entropy(
        logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return nll.view_as(wanted)


def scored(labels: Tensor) -> Tensor:
    """Bool (B, T): the places that predict a scored token."""
    return shifted(labels) != IGNORED
