"""What a network of molecules is trained on: moments of its outputs and the loss of each known target."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from zoo.metrics.properties import Task
from zoo.molecules.graph.uncertainty import LEAST_VARIANCE, gaussian_nll

Head = Literal["point", "mve"]


def moments(outputs: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """Means and variances of the members (M, B, T), on the standardised scale."""
    if head == "point":
        return outputs, torch.zeros_like(outputs)
    mean, raw = outputs.chunk(2, dim=-1)
    return mean, functional.softplus(raw) + LEAST_VARIANCE


def each_loss(
    outputs: Tensor, target: Tensor, task: Task, head: Head, mean: Tensor, deviation: Tensor
) -> Tensor:
    """The loss of each target of each member (M, B, T), 0 where the target is unknown.

    Args:
        outputs: of the members (M, B, T), or (M, B, 2 T) with ``head: mve``.
        target: (B, T), NaN where nothing is known.
        task: its cross-entropy, or squared error or Gaussian likelihood of the standardised target.
        head: of the network.
        mean: (T,), of the training targets.
        deviation: likewise.
    """
    known = ~target.isnan()
    if task == "classification":
        goal = torch.where(known, target, 0.0).to(outputs.dtype).expand_as(outputs)
        each = functional.binary_cross_entropy_with_logits(outputs, goal, reduction="none")
    else:
        goal = ((target - mean) / deviation).to(outputs.dtype)
        goal = torch.where(known, goal, 0.0)
        means, variances = moments(outputs, head)
        each = (means - goal).square() if head == "point" else gaussian_nll(means, variances, goal)
    return torch.where(known, each, 0.0)


def mean_loss(
    predicted: Tensor, deviation: Tensor, target: Tensor, task: Task, head: Head, scale: Tensor
) -> float:
    """Of predictions and their deviations (N, T) of an epoch, NaN where no target is known.

    Args:
        predicted: in the unit of the data; of classes the probability of 1.
        deviation: likewise.
        target: likewise.
        task: see :func:`each_loss`.
        head: likewise.
        scale: (T,), deviation of the training targets.
    """
    known = ~target.isnan()
    if not bool(known.any()):
        return float("nan")
    if task == "classification":
        return float(functional.binary_cross_entropy(predicted[known], target[known].to(predicted.dtype)))
    error = ((predicted - target) / scale)[known]
    if head == "point":
        return float(error.square().mean())
    variance = (deviation / scale)[known].square().clamp(min=LEAST_VARIANCE)
    return float(gaussian_nll(error, variance, torch.zeros_like(error)).mean())
