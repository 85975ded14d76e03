"""Batch normalisation whose statistics are those of the global batch, on CPUs as well as on GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional


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


class _OfTheGlobalBatch(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all processes; processes may hold different numbers of rows."""

    def forward(self, input: Tensor) -> Tensor:
        together = distributed.is_available() and distributed.is_initialized()
        if not (self.training and together and distributed.get_world_size() > 1):
            if self.training and input.numel() == input.shape[1] and self.track_running_stats:
                # one row has no variance: it is normalised as in evaluation
                return functional.batch_norm(
                    input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
                )
            return super().forward(input)
        wide = input if input.dtype == torch.float64 else input.float()
        channels_last = wide.movedim(1, -1)  # (B, ..., C)
        rows = channels_last.reshape(-1, wide.shape[1])
        count = rows.new_tensor([len(rows)])
        total = _Sum.apply(torch.cat([rows.sum(dim=0), count]))
        mean, count = total[:-1] / total[-1], total[-1]
        variance = _Sum.apply((rows - mean).square().sum(dim=0)) / count
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        out = (channels_last - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            out = out * self.weight + self.bias
        return out.movedim(-1, 1).to(input.dtype)

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


class GlobalBatchNorm1d(_OfTheGlobalBatch, nn.BatchNorm1d):
    """``BatchNorm1d`` over the rows of all processes, so that two processes train what one does.

    Torch's ``SyncBatchNorm`` refuses CPU tensors. Processes may hold different numbers of rows (graphs have
    different numbers of nodes). In one process it is ``BatchNorm1d``, and its parameters have the same names.
    """


class GlobalBatchNorm2d(_OfTheGlobalBatch, nn.BatchNorm2d):
    """``BatchNorm2d`` over the pictures of all processes."""


class GlobalBatchNorm3d(_OfTheGlobalBatch, nn.BatchNorm3d):
    """``BatchNorm3d`` over the volumes of all processes."""


def make_batch_norms_global(module: nn.Module) -> None:
    """Let each ``BatchNorm1d`` inside ``module`` take its statistics over all processes."""
    for child in module.modules():
        if type(child) is nn.BatchNorm1d:
            child.__class__ = GlobalBatchNorm1d  # the same parameters and buffers, another forward
