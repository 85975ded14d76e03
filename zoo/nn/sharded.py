"""Checkpoints of sharded models: a folder of shards as one checkpoint, and one checkpoint into shards."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

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


def named(state: Mapping[str, Any], optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """The reverse of :func:`numbered`: the i-th parameter of a group is that of ``optimizer``'s group.

    Raises:
        ValueError: for groups of other sizes.
    """
    name = {id(p): n for n, p in module.named_parameters()}
    ours = [[name[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    theirs = [list(group["params"]) for group in state["param_groups"]]
    if [len(g) for g in ours] != [len(g) for g in theirs]:
        raise ValueError(
            f"the checkpoint's optimizer has groups of {[len(g) for g in theirs]} parameters, this one of "
            f"{[len(g) for g in ours]}: resume with the settings of the model and the optimizer it had"
        )
    back = {t: n for group in zip(theirs, ours, strict=True) for t, n in zip(*group, strict=True)}
    groups = [{**group, "params": names} for group, names in zip(state["param_groups"], ours, strict=True)]
    return {"state": {back[i]: value for i, value in state["state"].items()}, "param_groups": groups}


def load_whole(
    module: nn.Module, optimizers: Sequence[Optimizer], checkpoint: Mapping[str, Any], strict: bool = True
) -> None:
    """Fill a sharded module and its optimizers from a whole checkpoint: each process takes its shards.

    Args:
        module: whose parameters may be DTensors.
        optimizers: of the module's parameters; those of the checkpoint in the same order.
        checkpoint: ``state_dict`` and ``optimizer_states``.
        strict: as of ``load_state_dict``.

    Raises:
        RuntimeError, ValueError: where they do not fit.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    own = module.state_dict()
    state = {
        name: distribute_tensor(value, own[name].device_mesh, own[name].placements, src_data_rank=None)
        if isinstance(own.get(name), DTensor)
        else value
        for name, value in checkpoint["state_dict"].items()
    }
    module.load_state_dict(state, strict=strict)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=strict)
    for optimizer, given in zip(optimizers, checkpoint["optimizer_states"], strict=bool(optimizers)):
        set_optimizer_state_dict(
            module, optimizer, optim_state_dict=named(given, optimizer, module), options=options
        )
