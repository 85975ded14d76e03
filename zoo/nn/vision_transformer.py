"""Vision transformers (Dosovitskiy et al., ICLR 2021; DeiT, Touvron et al., ICML 2021) under timm's parameter
names, without timm."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.nn.ranges import Depth, Rate, Size, check_ranges

ViTName = Literal[
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
]
SIZES: dict[str, tuple[int, int, int]] = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""(width, depth, heads)"""
NO_WEIGHT_DECAY = ("cls_token", "pos_embed")
"""What timm leaves out of the weight decay besides biases and norms."""


class StochasticDepth(nn.Module):
    """Drops a residual branch per example (Huang et al., ECCV 2016) in training.

    Args:
        rate: p of a drop.
        rescale: divide what stays by 1 - p, as timm does; the official code of MBT does not.
    """

    def __init__(self, rate: float, rescale: bool = False) -> None:
        super().__init__()
        self.rate, self.rescale = rate, rescale

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * (kept.to(branch.dtype) / ((1 - self.rate) if self.rescale else 1.0))


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v over all tokens, in ``heads`` parts of the width.

    Shapes:
        (B, N, D) -> (B, N, D)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, N, D / H)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """fc2(gelu(fc1 x)), the exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """y = x + drop(attention(norm1 x)); out = y + drop(mlp(norm2 y))."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, 4 * width)
        # two modules, since the masks of the two branches are independent
        self.drop_path1, self.drop_path2 = (StochasticDepth(drop_path, rescale=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.drop_path1(self.attn(self.norm1(x)))
        return y + self.drop_path2(self.mlp(self.norm2(y)))


class PatchEmbedding(nn.Module):
    """A convolution of kernel and stride P: (B, C, H, W) -> tokens (B, H W / P^2, D), row by row."""

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """ViT or DeiT (without the distillation token): the class token's output, normed, through ``head``.

    Parameters at 1,000 classes: ``vit_tiny`` 5,717,416, ``vit_small`` 22,050,664, ``vit_base`` and
    ``deit_base`` 86,567,656. A ``deit`` is the ``vit`` of its size: names differ in the training and in the
    pixels that published weights were trained on (:data:`zoo.nn.vision_files.PIXELS`).

    Args:
        name: timm's.
        num_classes: of the last layer ``head``; None leaves it out.
        image_size: side of the pictures, a multiple of ``patch_size``.
        patch_size: P.
        channels: of the pictures.
        drop_path: rate of the last block's stochastic depth; block l of L has drop_path l / (L - 1).
        dropout: of the pooled features, before ``head``.

    Shapes:
        (B, C, S, S) -> (B, ``num_classes``), or (B, ``features``) without ``head``

    Raises:
        ValueError: for a name that is none, or numbers out of their ranges.
    """

    def __init__(
        self,
        name: ViTName,
        num_classes: Size | None = 1000,
        image_size: Size = 224,
        patch_size: Size = 16,
        channels: Depth = 3,
        drop_path: Rate = 0.0,
        dropout: Rate = 0.0,
    ) -> None:
        check_ranges(VisionTransformer, locals())
        if name not in get_args(ViTName):
            names = ", ".join(get_args(ViTName))
            raise ValueError(f"VisionTransformer.name must be one of {names}, got {name!r}")
        if image_size % patch_size:
            raise ValueError(
                f"VisionTransformer.image_size must be a multiple of patch_size, got {image_size} and "
                f"{patch_size}"
            )
        super().__init__()
        width, depth, heads = SIZES[name.split("_")[1]]
        self.features, self.image_size = width, image_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image_size // patch_size) ** 2 + 1, width))
        self.patch_embed = PatchEmbedding(channels, width, patch_size)
        rates = [drop_path * i / (depth - 1) for i in range(depth)]
        self.blocks = nn.Sequential(*(Block(width, heads, rate) for rate in rates))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.drop = nn.Dropout(dropout)
        self.head = None if num_classes is None else nn.Linear(width, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """timm's (1.0): normal weights of .02 cut at two units (100 deviations), biases 0, the class token of
        1e-6; the patch convolution stays as torch begins it."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def tokens(self, image: Tensor) -> Tensor:
        """The normed output of all tokens, the class token first, (B, 1 + N, D).

        Raises:
            ValueError: for pictures of another side than the positions are made for.
        """
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"pictures of {image.shape[-2]} x {image.shape[-1]} pixels meet a vision transformer for "
                f"{self.image_size} x {self.image_size}"
            )
        x = torch.cat([self.cls_token.expand(len(image), -1, -1), self.patch_embed(image)], dim=1)
        return self.norm(self.blocks(x + self.pos_embed))

    def pooled(self, image: Tensor) -> Tensor:
        """The class token's normed output, (B, ``features``)."""
        return self.tokens(image)[:, 0]

    def forward(self, image: Tensor) -> Tensor:
        z = self.pooled(image)
        return z if self.head is None else self.head(self.drop(z))
