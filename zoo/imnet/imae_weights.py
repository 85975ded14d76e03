"""IM-AE's official weights (``IM_AE.model64-399.pth``; v1 as an ``.npz``) <-> :class:`zoo.IMAE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.hub.foreign import Weights, building
from zoo.imnet.imae import IMAE
from zoo.imnet.official import FORMATS, check_given, completed, decoder_sizes, load, write_state

__all__ = ["FORMATS", "read", "write"]


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """Official weights as those of :class:`zoo.IMAE`, and lines on what was found.

    Args:
        path: ``.pth`` of the PyTorch release, or ``.npz`` of TensorFlow variables.
        given: constructor arguments, which must not contradict the file.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights.
    """
    state = load(path)
    try:
        found = decoder_sizes(state)
        first = state["encoder.conv_1.weight"]
        convolutions = sum(k.startswith("encoder.conv_") and k.endswith("weight") for k in state)
        found |= {
            "dims": first.ndim - 2,
            "encoder_width": first.shape[0],
            "input_size": 4 * 2 ** (convolutions - 1),
        }
    except (KeyError, ValueError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: these are no weights of IM-AE: {what}") from None
    check_given(path, found, given)
    with building(path):
        module = IMAE(**found | given)
    line = (
        f"an IM-AE {found['version']} of {found['input_size']}^{found['dims']}, code of {found['z_dim']}, "
        f"{sum(p.numel() for p in module.network.parameters()):,} parameters"
    )
    return Weights(path, "zoo.IMAE", found | given, completed(module, state, path)), [line]


def write(module: IMAE, out: Path, to: str) -> list[str]:
    """Write weights as the PyTorch release has them; returns the lines to print."""
    return write_state(module, out)
