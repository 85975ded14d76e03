"""Generated images that nobody should train on: no numbers, blackened or constant, near copies."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Status = Literal["used", "nan", "constant", "duplicate"]
_FLAT = 1 / 255
"""Standard deviation of the pixels below which an image is constant: what a safety checker blackens is."""
_BLOCK = 4096


def root_distance(image: Tensor, known: Tensor) -> float:
    """The least root mean squared difference of an image (C, S, S) to others (N, C, S, S), all in [0, 1]."""
    least = torch.tensor(torch.inf)
    for part in known.split(_BLOCK):
        least = torch.minimum(least, (part.float() - image).pow(2).flatten(1).mean(dim=1).min().sqrt())
    return float(least)


def status_of(image: Tensor, known: Tensor | None, distance: float) -> Status:
    """Whether an image may be trained on, and else why not.

    Args:
        image: (C, S, S) in [0, 1], as it was decoded.
        known: images of its class that are trained on (N, C, S, S) in [0, 1].
        distance: nearer ones are copies.
    """
    if not bool(torch.isfinite(image).all()):
        return "nan"
    if float(image.std(correction=0)) < _FLAT:
        return "constant"
    if known is not None and len(known) and root_distance(image, known) < distance:
        return "duplicate"
    return "used"
