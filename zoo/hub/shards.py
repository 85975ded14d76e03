"""A folder of shards as the checkpoint that one process would have written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

META = "meta.pt"
"""What Lightning writes beside the shards: all of a checkpoint but tensors of the model and optimizers."""


def whole_checkpoint(folder: Path) -> dict[str, Any]:
    """A folder of shards as the checkpoint that one process would have written, in memory.

    The index must have been looked at before (``zoo.hub.torch_files.check_shards``): torch unpickles it.
    """
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "whole.pt"
        dcp_to_torch_save(folder, file)
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    meta: dict[str, Any] = torch.load(folder / META, map_location="cpu", weights_only=True)
    states = [found[name] for name in sorted(found, key=_number) if name.startswith("optimizer_")]
    return {**meta, "state_dict": found["state_dict"], "optimizer_states": [numbered(s) for s in states]}


def _number(name: str) -> int:
    return int(name.removeprefix("optimizer_")) if name.startswith("optimizer_") else -1


def numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer whose parameters have names, with numbers in their place, group by group, as
    torch's own optimizers count them."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    number = {name: place for place, name in enumerate(names)}
    groups = [{**group, "params": [number[n] for n in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[n]: value for n, value in state["state"].items()}, "param_groups": groups}
