"""Denoising Task Routing (Park et al., ICLR 2024): a fixed channel mask for each timestep.

Each timestep t is a denoising task. Its mask is a window of k channels that slides over the C channels as t
grows, slowly at low noise and fast at high noise. A block sees the unmasked channels only; the residual
stream keeps all.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

RoutingKind = Literal["dtr", "random", "none"]


def _check(channels: int, timesteps: int, alpha: float, beta: float) -> None:
    if channels < 1 or timesteps < 2:
        raise ValueError(f"routing needs channels >= 1 and timesteps >= 2, got {channels} and {timesteps}")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if not 0 < beta <= 1 or int(channels * beta) < 1:
        raise ValueError(f"beta must lie in (0, 1] and leave at least one of {channels} channels, got {beta}")


def window_starts(channels: int, timesteps: int = 1000, alpha: float = 4.0, beta: float = 0.8) -> Tensor:
    """First channel of each task, s_t = round((t / (T - 1))^alpha (C - k)), k = int(C beta). int64 (T,)

    Follows the official code (0-based t, T - 1 in the denominator, truncation of C beta), not the paper's
    text, whose window changes size by one. Computed in float64; ties round half to even.
    """
    _check(channels, timesteps, alpha, beta)
    span = channels - int(channels * beta)
    progress = torch.arange(timesteps, dtype=torch.float64, device="cpu") / (timesteps - 1)
    return torch.round(progress**alpha * span).long()


def task_masks(channels: int, timesteps: int = 1000, alpha: float = 4.0, beta: float = 0.8) -> Tensor:
    """Masks of all tasks, bool (timesteps, channels): row t is on for s_t <= c < s_t + int(C beta).

    Args:
        channels: width C of the block's input.
        timesteps: number of tasks T; t = 0 is the least noise, t = T - 1 is pure noise.
        alpha: > 1 moves the window mostly at high noise, 1 is linear (paper: 4).
        beta: share of active channels (paper: 0.8); 1 switches routing off.

    Raises:
        ValueError: for alpha <= 0, beta outside (0, 1] or a window without channels.
    """
    starts = window_starts(channels, timesteps, alpha, beta)[:, None]
    c = torch.arange(channels, device="cpu")[None]
    return (c >= starts) & (c < starts + int(channels * beta))


def random_masks(channels: int, timesteps: int, beta: float, generator: torch.Generator) -> Tensor:
    """R-TR, the paper's ablation: each task draws its own int(C beta) channels. bool (timesteps, channels)"""
    _check(channels, timesteps, 1.0, beta)
    # float32 by name: a default of bfloat16 would tie most draws of a row and bias the choice.
    scores = torch.rand(timesteps, channels, generator=generator, dtype=torch.float32, device="cpu")
    order = scores.argsort(dim=1)
    masks = torch.zeros(timesteps, channels, dtype=torch.bool, device="cpu")
    return masks.scatter_(1, order[:, : int(channels * beta)], True)


class TaskRouting(nn.Module):
    """Masks of a stack of blocks of equal width.

    ``dtr`` stores only the window starts (T integers, not in the state dict) and builds the masks once per
    forward. ``random`` draws one table per block from ``seed`` and keeps it in the state dict, since it is
    part of the model.
    """

    starts: Tensor
    masks: Tensor

    def __init__(
        self,
        channels: int,
        blocks: int,
        kind: RoutingKind = "dtr",
        timesteps: int = 1000,
        alpha: float = 4.0,
        beta: float = 0.8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in ("dtr", "random", "none"):
            raise ValueError(f"routing must be 'dtr', 'random' or 'none', got {kind!r}")
        self.channels, self.blocks, self.kind = channels, blocks, kind
        self.timesteps, self.alpha, self.beta = timesteps, alpha, beta
        self.active = int(channels * beta)
        if kind == "dtr":
            self.register_buffer("starts", window_starts(channels, timesteps, alpha, beta), persistent=False)
        elif kind == "random":
            generator = torch.Generator().manual_seed(seed)
            tables = [random_masks(channels, timesteps, beta, generator) for _ in range(blocks)]
            self.register_buffer("masks", torch.stack(tables))

    def forward(self, t: Tensor, dtype: torch.dtype) -> list[Tensor] | None:
        """Timesteps (B,) -> one 0/1 mask (B, 1, C) per block, or None without routing."""
        if self.kind == "none":
            return None
        if self.kind == "dtr":
            starts = self.starts.to(t.device)[t][:, None]  # (B, 1)
            c = torch.arange(self.channels, device=t.device)[None]
            mask = ((c >= starts) & (c < starts + self.active)).to(dtype)[:, None]  # (B, 1, C)
            return [mask] * self.blocks
        return list(self.masks[:, t].to(dtype)[:, :, None].unbind(0))

    def extra_repr(self) -> str:
        return f"{self.kind}, channels={self.channels}, alpha={self.alpha}, beta={self.beta}"
