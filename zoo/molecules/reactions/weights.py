"""The average of a run's checkpoints as one set of weights, as the Molecular Transformer is evaluated.

``checkpoint.keep: 20`` keeps the last 20; ``zoo convert runs/NAME/version_0/checkpoints --method reactions
--out averaged.safetensors`` averages them in float64.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.hub import foreign
from zoo.hub.foreign import Weights

FORMATS: dict[str, tuple[str, ...]] = {}
"""Nothing is written in formats of others."""

_STEP = re.compile(r"step=\d+\.ckpt")
_CLASS = "zoo.ReactionTransformer"


def read(path: Path, given: dict[str, Any]) -> tuple[Weights, list[str]]:
    """The mean of the checkpoints ``step=*.ckpt`` of a folder, all of one run, and lines on what was found.

    Args:
        path: folder.
        given: constructor arguments in the place of the run's.

    Raises:
        FileNotFoundError, OSError, ValueError: one line on a folder without such, or of several networks.
    """
    files = sorted(p for p in path.glob("*.ckpt") if _STEP.fullmatch(p.name)) if path.is_dir() else []
    if not files:
        raise ValueError(f"{path} is no folder with checkpoints step=*.ckpt of a run of {_CLASS}")
    sums: dict[str, Tensor] = {}
    hparams: dict[str, Any] = {}
    for file in files:
        content = foreign.load(file)
        state = content.get("state_dict") if isinstance(content, dict) else None
        own = content.get("hyper_parameters") if isinstance(content, dict) else None
        if not isinstance(state, dict) or not isinstance(own, dict) or "direction" not in own:
            raise ValueError(f"{file} is no checkpoint of {_CLASS}")
        hparams = {k: v for k, v in own.items() if not k.startswith("_")}
        if sums and {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in sums.items()}:
            raise ValueError(f"{file} has other tensors than {files[0].name}: average one run alone")
        for name, value in state.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise ValueError(f"{file}: {name} holds NaN or infinity")
            if not value.is_floating_point():
                sums[name] = value  # the vocabulary
            else:
                sums[name] = sums.get(name, torch.zeros_like(value, dtype=torch.float64)) + value.double()
    mean = {k: (v / len(files)).float() if v.is_floating_point() else v for k, v in sums.items()}
    first, last = files[0].stem, files[-1].stem
    lines = [f"mean of {len(files)} checkpoints, {first} to {last}"]
    return Weights(path, _CLASS, {**hparams, **given}, mean), lines
