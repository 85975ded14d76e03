"""Masked autoencoding (He et al., CVPR 2022): patches, masks, the loss on what is masked, the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.nn.vision_transformer import Block
from zoo.randomness import generator
from zoo.vision.encoder import Encoder, wave_positions


def patchify(image: Tensor, patch: int) -> Tensor:
    """(B, C, S, S) -> (B, N, P P C): patches row by row; rows, columns, channels within one."""
    b, c, s, _ = image.shape
    cells = image.reshape(b, c, s // patch, patch, s // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(b, (s // patch) ** 2, patch * patch * c)


def unpatchify(patches: Tensor, patch: int, channels: int) -> Tensor:
    """The reverse."""
    b, n, _ = patches.shape
    side = round(n**0.5)
    cells = patches.reshape(b, side, side, patch, patch, channels)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(b, channels, side * patch, side * patch)


def normalised(patches: Tensor) -> Tensor:
    """Each patch with mean 0 and deviation 1: (t - mean) / sqrt(var + 1e-6), the variance unbiased."""
    return (patches - patches.mean(dim=-1, keepdim=True)) / (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def masks(index: Tensor, patches: int, ratio: float, *key: int) -> Tensor:
    """An order of the patches for each item, (B, N): the first N (1 - ratio) are seen, the others masked.

    A function of the key and the item's number alone: for a training (seed, epoch).

    Args:
        index: of the items, (B,).
        patches: N.
        ratio: of what is masked.
        *key: whole numbers.
    """
    noise = [torch.rand(patches, generator=generator(*key, i)) for i in index.tolist()]
    return torch.stack(noise).argsort(dim=1, stable=True).to(index.device)


def seen(patches: int, ratio: float) -> int:
    """How many patches the encoder sees.

    Raises:
        ValueError: where that is none or all.
    """
    found = int(patches * (1 - ratio))
    if not 0 < found < patches:
        raise ValueError(
            f"model.init_args.mask_ratio is {ratio}, which leaves {found} of {patches} patches to see; some "
            "must be seen and some masked"
        )
    return found


class MaskedAutoencoder(Encoder):
    """An encoder of the visible patches and a small decoder of all, under the names of MAE's authors.

    Args:
        decoder_width: of the decoder.
        decoder_depth: its blocks.
        decoder_heads: of their attention.
        image_size: see :class:`Encoder`, as what follows.
        channels: of an image.
        patch_size: side of a patch.
        width: d.
        depth: L.
        heads: of the attention.
        norm_eps: of the norms.
    """

    def __init__(
        self,
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        image_size: int,
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__(image_size, channels, patch_size, width, depth, heads, norm_eps)
        self.channels = channels
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = nn.Parameter(
            wave_positions(decoder_width, self.side).to(self.cls_token.device), requires_grad=False
        )
        self.decoder_blocks = nn.Sequential(
            *(Block(decoder_width, decoder_heads) for _ in range(decoder_depth))
        )
        self.decoder_norm = nn.LayerNorm(decoder_width)
        self.decoder_pred = nn.Linear(decoder_width, patch_size**2 * channels)
        self.pos_embed = nn.Parameter(
            wave_positions(width, self.side).to(self.cls_token.device), requires_grad=False
        )
        self.set_eps(norm_eps)
        self.initialise()

    def initialise(self) -> None:
        """MAE's: Xavier's uniform weights, the patches' as those of a linear layer, tokens of .02."""
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.width, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, order: Tensor, count: int) -> Tensor:
        """What the decoder makes of all patches, (B, N, P P C).

        Args:
            image: (B, C, S, S), standardised.
            order: of the patches, (B, N), see :func:`masks`.
            count: how many of them the encoder sees.
        """
        x = self.decoder_embed(self.tokens(image, order[:, :count]))
        hidden = self.mask_token.expand(len(x), order.shape[1] - count, -1)
        shuffled = torch.cat([x[:, 1:], hidden.to(x.dtype)], dim=1)
        back = order.argsort(dim=1)[..., None].expand(-1, -1, x.shape[2])
        x = torch.cat([x[:, :1], shuffled.gather(1, back)], dim=1) + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))[:, 1:]

    def target(self, image: Tensor, per_patch: bool) -> Tensor:
        """What is to be predicted, (B, N, P P C)."""
        patches = patchify(image, self.patch_size)
        return normalised(patches) if per_patch else patches


def masked_error(predicted: Tensor, target: Tensor, order: Tensor, count: int) -> Tensor:
    """Mean squared error of each item on what is masked alone, (B,)."""
    each = (predicted.float() - target.float()).square().mean(dim=2)
    return each.gather(1, order[:, count:]).mean(dim=1)
