"""Mean average precision of multi-label scores, over a whole epoch and all processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def average_precision(scores: Tensor, target: Tensor) -> Tensor:
    """Step-wise AP of each class, (C,): sum_n (R_n - R_{n-1}) P_n over distinct scores, falling; NaN for a
    class without positives. That is scikit-learn's ``average_precision_score``, not an interpolated one.

    Args:
        scores: (N, C).
        target: (N, C) of 0 and 1.
    """
    each = [_one_class(scores[:, c], target[:, c] > 0) for c in range(scores.shape[1])]
    return torch.stack(each)


def _one_class(scores: Tensor, positive: Tensor) -> Tensor:
    order = scores.argsort(descending=True)
    ranked, hits = scores[order], positive[order].double().cumsum(0)
    # Equal scores are one step, at the last of them.
    last = torch.ones_like(positive)
    last[:-1] = ranked[1:] != ranked[:-1]
    place = torch.arange(1, len(scores) + 1, device=scores.device, dtype=torch.float64)
    hits, precision = hits[last], (hits / place)[last]
    gained = torch.diff(hits, prepend=hits.new_zeros(1))
    return (gained * precision).sum() / hits[-1] if hits[-1] > 0 else precision.new_tensor(float("nan"))


class MeanAveragePrecision(Metric):
    """Unweighted mean of the classes' average precisions; classes without positives do not count.

    ``update`` takes scores (N, C), logits or probabilities, and labels (N, C). All are kept until
    ``compute``: the mean of the batches' values would be another number.
    """

    full_state_update = False
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, target: Tensor) -> None:
        self.scores.append(scores.detach().float())
        self.targets.append(target.detach() > 0)

    def compute(self) -> Tensor:
        """The mean, or NaN if no class has a positive."""
        each = average_precision(dim_zero_cat(self.scores), dim_zero_cat(self.targets))
        return each.nanmean().float()
