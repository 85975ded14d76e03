"""DiT (Peebles & Xie, ICCV 2023) with Denoising Task Routing between its blocks.

Parameter names are those of the official release, so its state dicts load as they are (see weights.py).
Shapes: B batch, N tokens, D width, C image or latent channels, p patch size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.dtr.routing import RoutingKind, TaskRouting

SIZES: dict[str, dict[str, int]] = {
    "S": {"depth": 12, "width": 384, "heads": 6},
    "B": {"depth": 12, "width": 768, "heads": 12},
    "L": {"depth": 24, "width": 1024, "heads": 16},
    "XL": {"depth": 28, "width": 1152, "heads": 16},
}


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift; x (B, N, D), shift and scale (B, 1, D)."""
    return torch.addcmul(shift, x, 1 + scale)


def timestep_features(t: Tensor, features: int = 256) -> Tensor:
    """[cos(t w), sin(t w)] with w_i = 10000^(-i / (features / 2)), float32 (B, features).

    The exponent divides by features / 2 (128), not by 127 as diffusers does.
    """
    half = features // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def position_table(width: int, grid: int) -> Tensor:
    """Fixed 2-D sine-cosine table (1, grid^2, width), float32, computed in float64.

    Row-major tokens (row i, column j) = [sin(j w), cos(j w), sin(i w), cos(i w)]: the column comes first.
    """
    if width % 4:
        raise ValueError(f"width must be divisible by 4 for the 2-D position table, got {width}")
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64, device="cpu") / quarter)
    angles = torch.arange(grid, dtype=torch.float64, device="cpu")[:, None] * frequencies  # (grid, D/4)
    one_dim = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, D/2)
    column = one_dim[None].expand(grid, grid, -1)
    row = one_dim[:, None].expand(grid, grid, -1)
    return torch.cat([column, row], dim=-1).reshape(1, grid * grid, width).float()


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(timestep_features(t).to(next(self.mlp.parameters()).dtype))  # (B, D)


class LabelEmbedder(nn.Module):
    """Class table; the last row is the null class of classifier-free guidance (none when unconditional)."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (num_classes > 1), width)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)  # (B, D)


class PatchEmbedder(nn.Module):
    def __init__(self, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous, or the residual stream keeps the convolution's order and is copied by each norm.
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()  # (B, N, D)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        # Three slices, not one permuted view: their gradients then join in one copy.
        q, k, v = (
            part.view(b, n, self.heads, d // self.heads).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=2)
        )
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, D / heads)
        return self.proj(x.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * ratio))
        self.fc2 = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class DiTBlock(nn.Module):
    """adaLN-Zero block with task routing, z_out = z + Block(m * z) (DTR, eq. 1).

    The mask is applied once, at the block's input: neither before the MLP nor on the output. Written as
    z + a + b with a = g1 Attn(m z) and b = g2 MLP(m z + a), which equals the official h + (1 - m) z and is
    plain DiT to the bit for m = 1.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.width = width
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, mlp_ratio)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, z: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, N, D), condition (B, D), mask (B, 1, D) of 0 and 1 -> (B, N, D)"""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition)[:, None].chunk(
            6, dim=2
        )
        routed = z if mask is None else mask * z
        # Both norms take their statistics over all D entries, the zeroed ones included.
        a = gate1 * self.attn(modulate(F.layer_norm(routed, (self.width,), eps=1e-6), shift1, scale1))
        h = routed + a
        b = gate2 * self.mlp(modulate(F.layer_norm(h, (self.width,), eps=1e-6), shift2, scale2))
        return (h if mask is None else z + a) + b


class FinalLayer(nn.Module):
    def __init__(self, width: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(width, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=2)
        return self.linear(modulate(F.layer_norm(z, (self.width,), eps=1e-6), shift, scale))


class DiT(nn.Module):
    """Diffusion transformer with task routing.

    Args:
        input_size: side S of the square image or latent.
        patch_size: p; p divides S, N = (S / p)^2 tokens.
        in_channels: C, channels of the image or latent.
        width: D, divisible by ``heads`` and by 4.
        num_classes: K; labels are 0..K-1 and K is the null class. 1 means unconditional (one row, label 0).
        learn_sigma: the network also predicts the variance interpolation v (2C output channels).
        routing: of tasks, as in :class:`~zoo.dtr.routing.TaskRouting`.
        timesteps: of the diffusion, as there.
        alpha: as there.
        beta: as there.
        routing_seed: as there.
        activation_checkpointing: recompute each block in the backward pass (less memory, more time).
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
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
        if input_size % patch_size:
            raise ValueError(f"patch_size must divide input_size, got {patch_size} and {input_size}")
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} and {width}")
        if num_classes < 1 or depth < 1:
            raise ValueError(f"num_classes and depth must be at least 1, got {num_classes} and {depth}")
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.num_classes, self.timesteps, self.learn_sigma = num_classes, timesteps, learn_sigma
        self.out_channels = in_channels * (2 if learn_sigma else 1)
        self.activation_checkpointing = activation_checkpointing

        self.x_embedder = PatchEmbedder(patch_size, in_channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(width, patch_size, self.out_channels)
        self.routing = TaskRouting(width, depth, routing, timesteps, alpha, beta, routing_seed)
        self.register_buffer("pos_embed", position_table(width, input_size // patch_size), persistent=False)
        self.initialise()

    pos_embed: Tensor

    def initialise(self) -> None:
        """DiT's initialisation: Xavier-uniform linears, adaLN-Zero; a fresh network's output is exactly 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.proj.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[0].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.normal_(self.t_embedder.mlp[2].weight, std=0.02)  # type: ignore[arg-type]
        for block in self.blocks:
            nn.init.zeros_(block.adaLN_modulation[1].weight)  # type: ignore[index, union-attr]
        nn.init.zeros_(self.final_layer.adaLN_modulation[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.final_layer.linear.weight)

    @property
    def null_label(self) -> int:
        """Label of the null class; 0 when unconditional."""
        return self.num_classes if self.num_classes > 1 else 0

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (B, C, S, S), t integer (B,) in 0..T-1, y integer (B,) in 0..K -> (B, 2C, S, S): eps, then v.

        ``t`` is the original timestep, also when sampling with fewer steps: it picks the task mask.

        Raises:
            TypeError: for timesteps of a floating type; the task of a fractional timestep is not defined.
        """
        if t.is_floating_point():
            raise TypeError(f"timesteps must be integers in 0..{self.timesteps - 1}, got dtype {t.dtype}")
        z = self.x_embedder(x) + self.pos_embed.to(x.dtype)  # (B, N, D)
        condition = self.t_embedder(t) + self.y_embedder(y)  # (B, D)
        masks = self.routing(t, z.dtype)
        for i, block in enumerate(self.blocks):
            mask = None if masks is None else masks[i]
            if self.activation_checkpointing and self.training:
                z = checkpoint(block, z, condition, mask, use_reentrant=False)
            else:
                z = block(z, condition, mask)
        return self.unpatchify(self.final_layer(z, condition))

    def unpatchify(self, z: Tensor) -> Tensor:
        """(B, N, p * p * 2C) -> (B, 2C, S, S)"""
        g, p, c = self.input_size // self.patch_size, self.patch_size, self.out_channels
        z = z.view(-1, g, g, p, p, c)
        return torch.einsum("bhwpqc->bchpwq", z).reshape(-1, c, g * p, g * p)
