"""A whole checkpoint into the shards of a model and its optimizers, whose parameters may be DTensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def named(state: Mapping[str, Any], optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """The reverse of :func:`zoo.hub.shards.numbered`, place by place in the groups of ``optimizer``.

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
