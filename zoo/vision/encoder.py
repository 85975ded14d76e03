"""The vision transformer of the classifier and of the masked autoencoder, in any size, under timm's names and
those of MAE's authors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from zoo.nn.vision_transformer import Attention, Block, PatchEmbedding

Shape = Literal["vit-s/16", "vit-b/16", "vit-l/16", "free"]
SIZES = ("patch_size", "width", "depth", "heads")
SHAPES: dict[str, dict[str, int]] = {
    "vit-s/16": dict(zip(SIZES, (16, 384, 12, 6), strict=True)),
    "vit-b/16": dict(zip(SIZES, (16, 768, 12, 12), strict=True)),
    "vit-l/16": dict(zip(SIZES, (16, 1024, 24, 16), strict=True)),
}
Pool = Literal["cls", "mean"]
HALF = 0.5


def sizes_of(hparams: Mapping[str, object]) -> dict[str, int]:
    """Those of :data:`SIZES` of a module.

    Raises:
        ValueError: for heads that do not divide the width, or pictures that are no whole number of patches.
    """
    shape = str(hparams["shape"])
    found = {k: int(str(hparams[k])) for k in SIZES} if shape == "free" else SHAPES[shape]
    side, patch = int(str(hparams["image_size"])), found["patch_size"]
    if found["width"] % found["heads"]:
        raise ValueError(
            f"model.init_args.heads is {found['heads']}, which does not divide width: {found['width']}"
        )
    if side % patch:
        raise ValueError(
            f"model.init_args.image_size is {side}, no whole number of patches of {patch} pixels; set "
            "data.init_args.size, or a model.init_args.patch_size that divides it"
        )
    return dict(found)


def wave_positions(width: int, side: int) -> Tensor:
    """Sines and cosines of the places of patches in a square, behind zeros for a class token, (1, 1 + N, D).

    As MAE's authors have them: the first half of the components tells the column, the second one the row.
    """
    if width % 4:
        raise ValueError(f"model.init_args: fixed positions need a width that 4 divides, got {width}")
    omega = 1 / 10_000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    rows, columns = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    parts = [f(place.reshape(-1, 1) * omega[None]) for place in (columns, rows) for f in (np.sin, np.cos)]
    table = np.concatenate([np.zeros((1, width)), np.concatenate(parts, axis=1)])
    return torch.from_numpy(table).float()[None]


class Encoder(nn.Module):
    """Patches with positions, blocks, a norm.

    Args:
        image_size: S.
        channels: C.
        patch_size: P.
        width: D.
        depth: blocks.
        heads: of their attention.
        norm_eps: of every norm: 1e-6 of timm and MAE, 1e-12 of transformers.
        drop_path: stochastic depth of the last block, less in those before it.

    *Shapes*: (B, C, S, S) -> tokens (B, 1 + N, D), the class token first.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_size, self.patch_size, self.width = image_size, patch_size, width
        self.side = image_size // patch_size
        self.patch_embed = PatchEmbedding(channels, width, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.side**2 + 1, width))
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.Sequential(*(Block(width, heads, rate) for rate in rates))
        self.norm = nn.LayerNorm(width)
        self.set_eps(norm_eps)

    def set_eps(self, eps: float) -> None:
        """Of every norm."""
        for layer in self.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.eps = eps

    def tokens(self, image: Tensor, kept: Tensor | None = None) -> Tensor:
        """The normed output.

        Args:
            image: (B, C, S, S), standardised.
            kept: numbers of the patches that are seen (B, K), in any order; None is all.
        """
        x = self.patch_embed(image) + self.pos_embed[:, 1:]
        if kept is not None:
            x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([first, x], dim=1)))


class Classifier(Encoder):
    """An encoder and a linear layer on its class token or the mean of its patches.

    Args:
        num_classes: K.
        pool: ``cls`` or ``mean``.
        probe: batch norm without weights before the layer, as MAE's linear probing has it.
        image_size: see :class:`Encoder`, as what follows.
        channels: of an image.
        patch_size: side of a patch.
        width: d.
        depth: L.
        heads: of the attention.
        norm_eps: of the norms.
        drop_path: rate.
    """

    def __init__(
        self,
        num_classes: int,
        pool: Pool,
        probe: bool,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(image_size, channels, patch_size, width, depth, heads, norm_eps, drop_path)
        self.pool = pool
        self.probe_norm = nn.BatchNorm1d(width, affine=False, eps=1e-6) if probe else None
        self.head = nn.Linear(width, num_classes)
        self.initialise()

    def initialise(self) -> None:
        """timm's: normal weights of .02, biases 0; the patch convolution stays as torch begins it."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def pooled(self, image: Tensor) -> Tensor:
        """(B, D)."""
        tokens = self.tokens(image)
        return tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(dim=1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.pooled(image)
        return self.head(features if self.probe_norm is None else self.probe_norm(features))

    @torch.no_grad()
    def rollout(self, image: Tensor) -> Tensor:
        """Where the class token (or the mean of the patches) looks, (B, H, W) of patches, at most 1 in sum.

        Attention rollout (Abnar and Zuidema, 2020): the product over blocks of (A + I) / 2, A the mean of the
        heads.
        """
        x = self.patch_embed(image) + self.pos_embed[:, 1:]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], dim=1)
        flow = torch.eye(x.shape[1], device=x.device).expand(len(x), -1, -1)
        for block in self.blocks:
            assert isinstance(block, Block)
            flow = 0.5 * (attention_of(block.attn, block.norm1(x)) @ flow + flow)
            x = block(x)
        looked = flow[:, 0] if self.pool == "cls" else flow[:, 1:].mean(dim=1)
        return looked[:, 1:].unflatten(1, (self.side, self.side))


def attention_of(attention: Attention, x: Tensor) -> Tensor:
    """Mean of the heads' attention, (B, N, N), rows of sum 1."""
    q, k, _ = attention.qkv(x).unflatten(2, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=1)
