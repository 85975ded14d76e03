"""Whether a network's weights are numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def not_finite(module: LightningModule) -> set[str]:
    """Names of parameters and of buffers in checkpoints that hold NaN or infinity; of sharded ones, here."""
    return {name for name, value in _kept(module) if not is_finite(value)}


def is_finite(tensor: Tensor) -> bool:
    """Whether this process's part of a tensor holds no NaN and no infinity."""
    local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor.detach()
    if local.is_meta or not local.is_floating_point():
        return True
    return bool(torch.isfinite(local).all())


def _kept(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, part in module.named_modules():
        for name, value in [*part._parameters.items(), *part._buffers.items()]:
            if value is None or name in part._non_persistent_buffers_set:
                continue
            if not torch.nn.parameter.is_lazy(value):
                yield f"{prefix}.{name}" if prefix else name, value
