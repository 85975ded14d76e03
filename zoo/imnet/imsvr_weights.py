"""IM-SVR's official weights (``IM_SVR.model-999.pth``) <-> :class:`zoo.IMSVR`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.hub.foreign import Weights, building
from zoo.imnet.imsvr import IMSVR
from zoo.imnet.official import FORMATS, check_given, completed, decoder_sizes, load, write_state

__all__ = ["FORMATS", "read", "write"]


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """Official weights as those of :class:`zoo.IMSVR`, and lines on what was found.

    Args:
        path: ``.pth`` of the PyTorch release.
        given: constructor arguments, which must not contradict the file.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights.
    """
    state = load(path)
    try:
        found = decoder_sizes(state) | {"image_width": state["img_encoder.conv_0.weight"].shape[0]}
    except (KeyError, ValueError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: these are no weights of IM-SVR: {what}") from None
    check_given(path, found, given)
    with building(path):
        module = IMSVR(**found | given)
    full = completed(module, state, path, kept=("decodes",)) | {"decodes": torch.tensor(True)}
    count = sum(p.numel() for p in module.network.parameters())
    return Weights(path, "zoo.IMSVR", found | given, full), [
        f"an IM-SVR {found['version']}, code of {found['z_dim']}, {count:,} parameters"
    ]


def write(module: IMSVR, out: Path, to: str) -> list[str]:
    """Write weights as the PyTorch release has them; returns the lines to print."""
    return write_state(module, out)
