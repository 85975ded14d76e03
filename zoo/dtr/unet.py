"""The U-Net of ADM (Dhariwal & Nichol, NeurIPS 2021) with Denoising Task Routing in its residual blocks.

Parameter names are those of the official release. DTR's own U-Net code was never released: the routing here
follows the paper's eq. (1). Shapes: B batch, C channels, E width of the condition.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.dtr.network import timestep_features
from zoo.dtr.routing import RoutingKind, TaskRouting
from zoo.randomness import derived_seed


class RoutedResBlock(nn.Module):
    """Residual block of ADM, z_out = skip(z) + Block(m_t * z) (DTR, eq. 1, with the block's own width C_l).

    The mask acts once, at the block's input, the same on all pixels; the skip path sees all channels.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        width: int,
        routing: TaskRouting,
        dropout: float = 0.0,
        groups: int = 32,
        resample: str = "",
    ) -> None:
        super().__init__()
        self.resample, self.routing = resample, routing
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)
        # A fresh block is its skip path.
        nn.init.zeros_(self.out_layers[3].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.out_layers[3].bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """z (B, C, H, W), condition (B, E), t integer (B,) -> (B, C', H', W')"""
        masks = self.routing(t, z.dtype)
        h = z if masks is None else masks[0].transpose(1, 2)[..., None] * z  # mask (B, C, 1, 1)
        h = self.in_layers[1](self.in_layers[0](h))
        h = self.in_layers[2](_resampled(h, self.resample))
        scale, shift = self.emb_layers(condition)[..., None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(_resampled(z, self.resample)) + self.out_layers[1:](h)


def _resampled(x: Tensor, how: str) -> Tensor:
    if how == "up":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.avg_pool2d(x, 2) if how == "down" else x


class AttentionBlock(nn.Module):
    """Self-attention over pixels; qkv packed as [3, heads, dim] (ADM's "new attention order")."""

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(f"unet_head_channels must divide {channels}, got {head_channels}")
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        b, c = z.shape[:2]
        flat = z.flatten(2)  # (B, C, N)
        q, k, v = self.qkv(self.norm(flat)).view(b, 3, self.heads, c // self.heads, -1).mT.unbind(1)
        out = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, C / heads)
        return (flat + self.proj_out(out.mT.reshape(b, c, -1))).view_as(z)


class UNet(nn.Module):
    """ADM's U-Net with task routing; the defaults are ADM's network for 64 x 64 ImageNet (296M parameters).

    Args:
        input_size: side S of the image; halved once per multiplier after the first.
        in_channels: C of the image.
        channels: width of the first level.
        multipliers: width of each level in units of ``channels``.
        res_blocks: residual blocks per level.
        attention: resolutions with attention.
        head_channels: width of an attention head.
        groups: of the group norms; divides every width.
        num_classes: K; labels are 0..K-1 and K is the null class. 1 means unconditional.
        learn_sigma: the network also predicts the variance interpolation v (2C output channels).
        routing: of tasks, as in :class:`~zoo.dtr.routing.TaskRouting`.
        timesteps: of the diffusion, as there.
        alpha: as there.
        beta: as there.
        routing_seed: as there.

    Raises:
        ValueError: for sizes that do not fit.
    """

    def __init__(
        self,
        input_size: int = 64,
        in_channels: int = 3,
        channels: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        res_blocks: int = 3,
        attention: Sequence[int] = (32, 16, 8),
        head_channels: int = 64,
        dropout: float = 0.1,
        groups: int = 32,
        num_classes: int = 1000,
        learn_sigma: bool = True,
        routing: RoutingKind = "dtr",
        timesteps: int = 1000,
        alpha: float = 4.0,
        beta: float = 0.8,
        routing_seed: int = 0,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if input_size % 2 ** (len(multipliers) - 1):
            raise ValueError(f"input_size {input_size} cannot be halved {len(multipliers) - 1} times")
        if channels % groups or num_classes < 1:
            raise ValueError(
                f"unet_channels must be a multiple of {groups} (unet_groups) and num_classes positive, "
                f"got {channels} and {num_classes}"
            )
        self.num_classes, self.timesteps, self.channels = num_classes, timesteps, channels
        self.activation_checkpointing = activation_checkpointing
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        width = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))
        self.label_emb = nn.Embedding(num_classes + 1, width) if num_classes > 1 else None
        self.blocks: list[RoutedResBlock] = []

        def res_block(now: int, then: int, resample: str = "") -> RoutedResBlock:
            seed = derived_seed(routing_seed, len(self.blocks))
            task_routing = TaskRouting(now, 1, routing, timesteps, alpha, beta, seed)
            block = RoutedResBlock(now, then, width, task_routing, dropout, groups, resample)
            self.blocks.append(block)
            return block

        def level(now: int, then: int, resolution: int) -> list[nn.Module]:
            attend = resolution in attention
            return [res_block(now, then), *([AttentionBlock(then, head_channels, groups)] if attend else [])]

        size, now = input_size, channels
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(in_channels, channels, 3, padding=1)])])
        skips = [channels]
        for i, multiplier in enumerate(multipliers):
            for _ in range(res_blocks):
                self.input_blocks.append(nn.ModuleList(level(now, multiplier * channels, size)))
                now = multiplier * channels
                skips.append(now)
            if i < len(multipliers) - 1:
                self.input_blocks.append(nn.ModuleList([res_block(now, now, "down")]))
                skips.append(now)
                size //= 2
        middle = [res_block(now, now), AttentionBlock(now, head_channels, groups), res_block(now, now)]
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList()
        for i, multiplier in reversed(list(enumerate(multipliers))):
            for j in range(res_blocks + 1):
                layers = level(now + skips.pop(), multiplier * channels, size)
                now = multiplier * channels
                if i and j == res_blocks:
                    layers.append(res_block(now, now, "up"))
                    size *= 2
                self.output_blocks.append(nn.ModuleList(layers))
        last = nn.Conv2d(now, self.out_channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.out = nn.Sequential(nn.GroupNorm(groups, now), nn.SiLU(), last)

    @property
    def null_label(self) -> int:
        """Label of the null class; 0 when unconditional."""
        return self.num_classes if self.num_classes > 1 else 0

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (B, C, S, S), t integer (B,) in 0..T-1, y integer (B,) in 0..K -> (B, 2C, S, S): eps, then v.

        Raises:
            TypeError: for timesteps of a floating type.
        """
        if t.is_floating_point():
            raise TypeError(f"timesteps must be integers in 0..{self.timesteps - 1}, got dtype {t.dtype}")
        features = timestep_features(t, self.channels).to(next(self.time_embed.parameters()).dtype)
        condition = self.time_embed(features)  # (B, E)
        if self.label_emb is not None:
            condition = condition + self.label_emb(y)
        z, skips = x, []
        for layers in self.input_blocks:
            z = self._level(layers, z, condition, t)
            skips.append(z)
        z = self._level(self.middle_block, z, condition, t)
        for layers in self.output_blocks:
            z = self._level(layers, torch.cat([z, skips.pop()], dim=1), condition, t)
        return self.out(z)

    def _level(self, layers: nn.Module, z: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        for layer in layers.children():
            if not isinstance(layer, RoutedResBlock):
                z = layer(z)
            elif self.activation_checkpointing and self.training:
                z = checkpoint(layer, z, condition, t, use_reentrant=False)
            else:
                z = layer(z, condition, t)
        return z
