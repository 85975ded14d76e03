"""Batch norm over the global batch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch norm of the last axis, (..., C), whose statistics span all processes.

    torch's SyncBatchNorm needs a GPU, plain BatchNorm makes the optimisation depend on the world size. The
    processes must hold equally many items.
    """

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        spread = distributed.is_available() and distributed.is_initialized()
        if not self.training or not spread or distributed.get_world_size() == 1:
            return super().forward(flat).view_as(x)
        world = distributed.get_world_size()
        mean = all_reduce(flat.mean(dim=0)) / world
        variance = all_reduce((flat - mean).square().mean(dim=0)) / world
        with torch.no_grad():
            count = len(flat) * world
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        y = (flat - mean) * (variance + self.eps).rsqrt()
        return (y * self.weight + self.bias).view_as(x)
