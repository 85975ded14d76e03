"""Mean and deviation of pixels that a network reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Statistics = tuple[list[float], list[float]]


def statistics(hparams: Mapping[str, Any]) -> Statistics:
    """Of a module's ``mean`` and ``std``, .5 where they are null.

    Raises:
        ValueError: for other numbers of them than channels.
    """
    channels = hparams["channels"]
    for key in ("mean", "std"):
        if hparams[key] is not None and len(hparams[key]) != channels:
            raise ValueError(
                f"model.init_args.{key} has {len(hparams[key])} numbers, but channels is {channels}"
            )
    mean, std = (list(hparams[key] or [0.5] * channels) for key in ("mean", "std"))
    return mean, std


def standardised(image: Tensor, pixels: Statistics) -> Tensor:
    """(x - mean) / std of each channel of pictures (B, C, S, S) in [0, 1]."""
    mean, std = (image.new_tensor(v).view(1, -1, 1, 1) for v in pixels)
    return (image - mean) / std
