"""Improved precision and recall of generative models (Kynkaanniemi et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

_ROWS = 1000  # rows of a distance matrix held at once


def neighbour_radii(features: Tensor, neighbours: int = 3) -> Tensor:
    """Distance of each feature to its k-th nearest other one, (N,).

    Raises:
        ValueError: for no more than ``neighbours`` features (N, F).
    """
    if neighbours < 1 or len(features) <= neighbours:
        raise ValueError(f"need more than {neighbours} >= 1 features, got {len(features)}")
    # The nearest is the feature itself, at distance 0.
    rows = [
        torch.cdist(part, features).kthvalue(neighbours + 1, dim=1).values for part in features.split(_ROWS)
    ]
    return torch.cat(rows)


def covered_share(points: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """Share of ``points`` (N, F) that lie in the ball of at least one of ``centres`` (M, F), scalar."""
    inside = [(torch.cdist(part, centres) <= radii).any(dim=1) for part in points.split(_ROWS)]
    return torch.cat(inside).double().mean()


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = 3) -> tuple[Tensor, Tensor]:
    """Precision: share of samples inside some ball of the real features; recall: the reverse.

    Args:
        real: (N, F); ADM takes 10,000 images and Inception's pool_3.
        fake: (M, F) of all samples.
        neighbours: k; a ball reaches to the k-th neighbour, itself not counted.
    """
    real, fake = real.double(), fake.double()
    precision = covered_share(fake, real, neighbour_radii(real, neighbours))
    return precision, covered_share(real, fake, neighbour_radii(fake, neighbours))


class PrecisionRecall(Metric):
    """Improved precision and recall of features, streamed.

    Args:
        neighbours: k, see :func:`precision_recall`.
        **kwargs: of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, neighbours: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.neighbours = neighbours
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """Add features (N, F)."""
        (self.real if real else self.fake).append(features.float())

    def compute(self) -> dict[str, Tensor]:
        """``precision`` and ``recall``, scalars float64."""
        precision, recall = precision_recall(
            dim_zero_cat(self.real), dim_zero_cat(self.fake), self.neighbours
        )
        return {"precision": precision, "recall": recall}
