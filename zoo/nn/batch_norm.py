"""Batch normalisation whose statistics are those of the global batch, on CPUs as well as on GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient of each process is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """``BatchNorm1d`` over the rows of all processes, so that two processes train what one does.

    Torch's ``SyncBatchNorm`` refuses CPU tensors. Processes may hold different numbers of rows (graphs have
    different numbers of nodes). In one process it is ``BatchNorm1d``, and its parameters have the same names.
    """

    def forward(self, input: Tensor) -> Tensor:
        together = distributed.is_available() and distributed.is_initialized()
        if not (self.training and together and distributed.get_world_size() > 1) or input.ndim != 2:
            return super().forward(input)
        rows = input if input.dtype == torch.float64 else input.float()
        count = rows.new_tensor([len(rows)])
        total = _Sum.apply(torch.cat([rows.sum(dim=0), count]))
        mean, count = total[:-1] / total[-1], total[-1]
        variance = _Sum.apply((rows - mean).square().sum(dim=0)) / count
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        out = (rows - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            out = out * self.weight + self.bias
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics, with the unbiased variance as torch keeps it."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


def make_batch_norms_global(module: nn.Module) -> None:
    """Let each ``BatchNorm1d`` inside ``module`` take its statistics over all processes."""
    for child in module.modules():
        if type(child) is nn.BatchNorm1d:
            child.__class__ = GlobalBatchNorm1d  # the same parameters and buffers, another forward
