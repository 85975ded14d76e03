"""Inception score (Salimans et al. 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat


def inception_score(probabilities: Tensor, part: int = 5000) -> Tensor:
    """exp(E_x KL(p(y|x) || p(y))), averaged over consecutive parts, scalar float64.

    Args:
        probabilities: (N, K) class probabilities of generated images, in the order of generation.
        part: samples per part (ADM: 5,000 of 50,000); the last part may be smaller.

    Raises:
        ValueError: for no samples or a part below 1.
    """
    if probabilities.ndim != 2 or not len(probabilities) or part < 1:
        raise ValueError(
            "the inception score needs (N, K) probabilities and part >= 1, "
            f"got {tuple(probabilities.shape)} and {part}"
        )
    scores = []
    for p in probabilities.double().split(part):
        marginal = p.mean(dim=0, keepdim=True)
        # xlogy: a class of probability 0 adds nothing.
        divergence = (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(dim=1)
        scores.append(divergence.mean().exp())
    return torch.stack(scores).mean()


class InceptionScore(Metric):
    """Inception score of generated images, from the class scores of a classifier.

    Args:
        part: samples per part, see :func:`inception_score`.
        **kwargs: of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    probabilities: list[Tensor]

    def __init__(self, part: int = 5000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.part = part
        self.add_state("probabilities", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor) -> None:
        """Add class scores before the softmax, (N, K)."""
        self.probabilities.append(logits.float().softmax(dim=1))

    def compute(self) -> Tensor:
        """Scalar float64."""
        return inception_score(dim_zero_cat(self.probabilities), self.part)
