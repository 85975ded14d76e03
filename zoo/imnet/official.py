"""Official weight files of IM-NET <-> ours; our names are the PyTorch release's under ``network.``.

Nothing is unpickled but tensors. TensorFlow checkpoints of the first release are read as an ``.npz`` of their
variables, ``np.savez(out, **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()})`` with
``r = tf.train.load_checkpoint(path)``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from zoo.hub import foreign
from zoo.hub.foreign import State

FORMATS: dict[str, tuple[str, ...]] = {"pytorch": (".pth",)}
_TF_LAYERS = ("h1_lin", "h4_lin", "h5_lin", "h6_lin", "h7_lin", "h8_lin")
_TF_NORMS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load(path: Path) -> State:
    """The tensors of an official file, under the names of the PyTorch release.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is no such weights.
    """
    if path.suffix == ".npz":
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        return _of_tensorflow(path)
    return foreign.state_dict(foreign.load(path), path)


def _of_tensorflow(path: Path) -> State:
    state: State = {}
    for name, value in foreign.read_arrays(path).items():
        key = _name_of_tensorflow(name, value.ndim)
        if key is None:
            continue
        if value.ndim == 2:  # Matrix is [in, out]
            value = value.T
        elif value.ndim >= 4:  # D H W in out -> out in D H W
            value = value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))
        state[key] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    if not state:
        raise ValueError(f"{path} has no variables of simple_net or encoder")
    return foreign.state_dict(state, path)


def _name_of_tensorflow(name: str, rank: int) -> str | None:
    """Ours, or None for Adam's and other variables."""
    if "Adam" in name or "adam" in name:
        return None
    if match := re.search(r"simple_net/(h\d_lin)/(Matrix|bias)", name):
        if match[1] not in _TF_LAYERS:
            return None
        part = "weight" if match[2] == "Matrix" else "bias"
        return f"generator.linear_{_TF_LAYERS.index(match[1]) + 1}.{part}"
    if match := re.search(r"encoder/\D*(\d+)\D*/(gamma|beta|moving_mean|moving_variance)$", name):
        return f"encoder.norm_{match[1]}.{_TF_NORMS[match[2]]}"
    if match := re.search(r"encoder/conv_(\d+)/", name):
        return f"encoder.conv_{match[1]}.{'weight' if rank >= 4 else 'bias'}"
    return None


def decoder_sizes(state: State) -> dict[str, Any]:
    """version, z_dim and width that the decoder's tensors tell."""
    layers = len({k for k in state if re.fullmatch(r"generator\.linear_\d+\.weight", k)})
    if layers not in (6, 7):
        raise ValueError(f"generator.linear_* has {layers} layers, v2 has 7 and v1 has 6")
    first, last = state["generator.linear_1.weight"], state[f"generator.linear_{layers}.weight"]
    points = 2 if layers == 6 and first.shape[1] == 102 else 3
    return {
        "version": "v2" if layers == 7 else "v1",
        "z_dim": first.shape[1] - points,
        "width": last.shape[1],
    }


def completed(module: LightningModule, state: State, path: Path, kept: tuple[str, ...] = ()) -> State:
    """The module's state dict with the official tensors in it, strict in names and shapes.

    Raises:
        ValueError: for a tensor that is missing, unknown or of another shape.
    """
    expected = module.state_dict()
    own = {k.removeprefix("network."): v for k, v in expected.items() if k not in kept}
    theirs = foreign.fitted(state, own, path, "the released network")
    return expected | {f"network.{k}": v.float() if v.is_floating_point() else v for k, v in theirs.items()}


def check_given(path: Path, found: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises ValueError where the file says otherwise."""
    for key, value in given.items():
        if found.get(key, value) != value:
            raise ValueError(f"{path}: its {key} is {found[key]}, which contradicts --set {key}={value}")


def write_state(module: Any, out: Path) -> list[str]:
    """``module.network`` as a state dict that the release loads strictly; returns the lines to print."""
    if module.version != "v2":
        raise ValueError("the PyTorch release has v2 alone; this model is v1")
    state = {k: v.detach().cpu().clone() for k, v in module.network.state_dict().items()}
    with foreign.written_whole(out) as temporary:
        torch.save(state, temporary)
    return [f"wrote {out}, a state dict of IM-NET's PyTorch release; put its path in its file checkpoint"]
