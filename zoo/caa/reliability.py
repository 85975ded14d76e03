"""When a robust accuracy means little: the six warnings of AutoAttack (Croce & Hein, ICML 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from zoo.caa.losses import margin
from zoo.caa.victim import Victim

WARNINGS = {
    "randomized": "it gives different scores for the same images: average over its randomness first",
    "softmax": "its outputs are probabilities: give logits, or losses lose their gradients",
    "zero_gradients": "its gradient by the image is exactly zero: attacks that follow it see nothing",
    "square": "Square fools images that the attacks with gradients do not: its gradients mislead",
    "dynamic": "it differentiates or optimises inside its forward pass: attack that on its own terms",
    "few_classes": "it has fewer than 4 classes: the targeted loss falls back to the margin",
}
"""Name -> what the user is told."""
_REPEATS = 5
_DIFFERS, _OFF_ONE = 1e-4, 1e-3
_SQUARE_SHARE = 0.002
LEAST_CLASSES = 4


def _same(victim: Victim, image: Tensor, first: Tensor) -> bool:
    others = (victim.logits(image) for _ in range(_REPEATS - 1))
    return all(bool(((z - first).abs() <= _DIFFERS).all()) for z in others)


def _probabilities(logits: Tensor) -> bool:
    inside = (logits >= 0) & (logits <= 1)
    return bool(inside.all()) and bool(((logits.sum(dim=1) - 1).abs() < _OFF_ONE).all())


def _dynamic(classify: Callable[[Tensor], Tensor], image: Tensor) -> bool:
    """Whether the forward pass runs autograd's engine."""
    used = []
    engine = "_engine_run_backward"  # what torch.autograd.grad, backward and functorch come down to

    def noting(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            used.append(True)
            return real(*args, **kwargs)

        return call

    real: Any = getattr(torch.autograd, engine)
    with mock.patch.object(torch.autograd, engine, noting(real)), torch.enable_grad():
        classify(image)
    return bool(used)


def probe(victim: Victim, image: Tensor, label: Tensor) -> set[str]:
    """Names of the warnings that a batch of clean images gives cause for; ``square`` needs an attack.

    Args:
        victim: the model; the passes made here are taken out of its count.
        image: (N, C, H, W) in [0, 1].
        label: (N,).
    """
    cost = victim.spent()
    with torch.inference_mode(False):
        image, label = image.clone(), label.clone()
        logits = victim.logits(image)
        found = {
            "randomized": not _same(victim, image, logits),
            "softmax": _probabilities(logits),
            "dynamic": _dynamic(victim.classify, image),
            "few_classes": logits.shape[1] < LEAST_CLASSES,
        }
        _, _, gradient = victim.gradient(image, lambda z: margin(z, label))
        found["zero_gradients"] = bool((gradient.flatten(1) == 0).all(dim=1).any())
    victim.cost = cost
    return {name for name, warned in found.items() if warned}


def square_wins(fooled_by: list[str], fooled: list[int], images: int) -> bool:
    """Whether Square took more than 0.2 % of all images from what earlier attackers with gradients left.

    Args:
        fooled_by: attackers in their order.
        fooled: images that each fooled.
        images: in all.
    """
    for place, name in enumerate(fooled_by):
        if name == "Square" and place and fooled[place] > _SQUARE_SHARE * images:
            return True
    return False
