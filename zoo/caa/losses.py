"""Losses of attacks: functions of logits z (N, K) and labels y (N,) -> (N,), all maximised."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_DLR_CLASSES = 4


def at(logits: Tensor, classes: Tensor) -> Tensor:
    """z_c of each row, (N,)."""
    return logits.gather(1, classes[:, None])[:, 0]


def best_other(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j != y} z_j, (N,)."""
    own = functional.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).amax(dim=1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y: above 0 where the image is misclassified."""
    return best_other(logits, labels) - at(logits, labels)


def rival(logits: Tensor, classes: Tensor) -> Tensor:
    """argmax_{j != c} z_j, (N,)."""
    own = functional.one_hot(classes, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).argmax(dim=1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(z)_y."""
    return functional.cross_entropy(logits, labels, reduction="none")


def hinge(logits: Tensor, labels: Tensor, confidence: float = 50.0) -> Tensor:
    """Of CW: -relu(z_y - max_{j != y} z_j + 50), other classes as (1 - onehot) z - 1e4 onehot."""
    own = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    other = ((1 - own) * logits - 1e4 * own).amax(dim=1)
    return -(at(logits, labels) - other + confidence).relu()


def hinge_to(logits: Tensor, targets: Tensor, confidence: float = 50.0) -> Tensor:
    """Of CW on a chosen class: -relu(max_{j != t} z_j - z_t + 50)."""
    return -(margin(logits, targets) + confidence).relu()


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_(1) - z_(3) / 2 - z_(4) / 2 + 1e-12), z_(i) the i-th largest (Croce & Hein 2020).

    Unchanged by z -> a z + b for a > 0. With fewer than 4 classes the margin z_t - z_y stands in.
    """
    difference = at(logits, targets) - at(logits, labels)
    if logits.shape[1] < _DLR_CLASSES:
        return difference
    top = logits.topk(_DLR_CLASSES, dim=1).values
    return difference / (top[:, 0] - 0.5 * top[:, 2] - 0.5 * top[:, 3] + 1e-12)


def carlini_wagner(logits: Tensor, labels: Tensor) -> Tensor:
    """Of CWL2, minimised: max(z_y - max_j (1 - onehot) z, -20); the true class takes part with 0."""
    own = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return (at(logits, labels) - ((1 - own) * logits).amax(dim=1)).clamp(min=-20)


def carlini_wagner_to(logits: Tensor, targets: Tensor) -> Tensor:
    """Of CWL2 on a chosen class, minimised: max(max_j (1 - onehot) z - z_t, -20)."""
    own = functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
    return (((1 - own) * logits).amax(dim=1) - at(logits, targets)).clamp(min=-20)
