"""Whether a classifier is right as often as it says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class CalibrationError(Metric):
    """Expected calibration error, in equal-width bins of the confidence (Guo et al., 2017).

    ECE = sum over bins of (share of the predictions) * |accuracy - mean confidence|. A confidence c lies in
    bin ceil(c * bins), the last one of which contains 1. NaN without predictions.

    Args:
        bins: of [0, 1].
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    count: Tensor
    confidence: Tensor
    correct: Tensor

    def __init__(self, bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = bins
        for name in ("count", "confidence", "correct"):
            self.add_state(name, torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add predictions: their confidences in [0, 1] and whether they were right, of one shape."""
        confidence, correct = confidence.detach().flatten().double(), correct.flatten().double()
        place = (confidence * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1)
        self.count.index_add_(0, place, torch.ones_like(confidence))
        self.confidence.index_add_(0, place, confidence)
        self.correct.index_add_(0, place, correct)

    def compute(self) -> Tensor:
        return ((self.correct - self.confidence).abs().sum() / self.count.sum()).float()
