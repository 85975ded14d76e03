"""Sharding of a network's parts under Lightning's ``ModelParallelStrategy`` (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import LightningModule
from torch import nn
from torch.distributed.tensor import DTensor


def shard_blocks(module: LightningModule, parts: Iterable[nn.Module | None]) -> None:
    """Call ``fully_shard`` on each part, in the given order (inner blocks first), over the data-parallel
    mesh.

    Does nothing without a device mesh, and nothing on a second call: Lightning may run ``configure_model``
    twice. Every part with trainable parameters must be listed, or its gradients are not averaged over the
    ranks.
    """
    mesh = module.device_mesh
    if mesh is None:
        return
    from torch.distributed.fsdp import fully_shard

    present = [part for part in parts if part is not None]
    if any(isinstance(p, DTensor) for part in present for p in part.parameters()):
        return
    for part in present:
        fully_shard(part, mesh=mesh["data_parallel"])
