"""What guided sampling asks of a text-to-image model, and the embedded one of class tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zoo.actgen.attention import KeptAttention, keep_attention
from zoo.diffusion.schedules import NoiseSchedule, leading_timesteps, scaled_linear_betas


@dataclass
class Prompts:
    """Prompts of classes as a UNet takes them.

    Attributes:
        embeddings: (2, B, L, D): row 0 of the empty prompt, row 1 of the class's.
        tokens: 1 at the tokens of the class's name in row 1 (B, L).
        texts: what was said.
    """

    embeddings: Tensor
    tokens: Tensor
    texts: list[str]


class Generator(Protocol):
    """A frozen latent diffusion model of classes.

    Attributes:
        latent_shape: (C, h, h) of a latent.
        picture_shape: (C, S, S) of a picture.
        schedule: of all training timesteps.
        offset: of its leading timesteps.
        name: for the manifest.
        device: where it computes.
    """

    latent_shape: tuple[int, int, int]
    picture_shape: tuple[int, int, int]
    schedule: NoiseSchedule
    offset: int
    name: str
    device: torch.device

    def to(self, device: torch.device) -> None:
        """Move all parts."""

    def keep_maps(self, wanted: bool) -> None:
        """Compute the attention that :meth:`maps` gives in the open, or not at all."""

    def prompts(self, labels: Sequence[int]) -> Prompts:
        """Of classes by number."""

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Pictures (B, C, S, S) in [-1, 1] -> latents in training scale, drawn with ``noise``."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures in about [-1, 1], float32; gradients flow."""

    def eps(self, x: Tensor, t: int, embeddings: Tensor) -> Tensor:
        """Predicted noise, float32 (2 B, C, h, h), of latents at both rows, null first."""

    def maps(self) -> list[Tensor]:
        """(2 B, h w, L) of each layer that is looked at, of the last :meth:`eps`."""


def respaced(generator: Generator, steps: int) -> NoiseSchedule:
    """The schedule of ``steps`` leading timesteps."""
    total = generator.schedule.timesteps
    return generator.schedule.respaced(leading_timesteps(total, steps, generator.offset))


class ClassTokens(nn.Module):
    """[BOS, class, EOS, PAD] or, without a class, [BOS, EOS, PAD, PAD] as embeddings with learned places.

    Args:
        classes: K; the table has K + 3 rows.
        width: of an embedding.
    """

    LENGTH = 4
    CLASS = 1  # place of the class

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes + 3, width)
        self.places = nn.Parameter(torch.zeros(self.LENGTH, width))
        nn.init.normal_(self.places, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (B,), negative for none -> (B, 4, D)."""
        begin, end, pad = self.classes, self.classes + 1, self.classes + 2
        none = labels < 0
        rows = [
            torch.full_like(labels, begin),
            torch.where(none, end, labels),
            torch.where(none, pad, end),
            torch.full_like(labels, pad),
        ]
        return self.table(torch.stack(rows, dim=1)) + self.places


class ClassUNet(nn.Module):
    """diffusers' ``UNet2DConditionModel`` on pixels, with the tokens of a class for a prompt.

    The default has 271,937 parameters and 544 of the tokens.

    Args:
        classes: K.
        size: side of the pictures.
        channels: of the pictures.
        widths: channels of each level, which halves the side.
        width: of a token's embedding.
        heads: of an attention.
        groups: of the group norms.
    """

    def __init__(
        self,
        classes: int,
        size: int,
        channels: int,
        widths: Sequence[int],
        width: int,
        heads: int,
        groups: int,
    ) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        levels = len(widths)
        self.text = ClassTokens(classes, width)
        self.unet = UNet2DConditionModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=tuple(widths),
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            mid_block_type="UNetMidBlock2DCrossAttn",
            cross_attention_dim=width,
            attention_head_dim=heads,  # which diffusers reads as their number
            norm_num_groups=groups,
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """eps (B, C, S, S) of x_t, timesteps (B,) and labels (B,), negative for none."""
        return self.unet(x, t, self.text(y), return_dict=False)[0]


class EmbeddedGenerator:
    """A :class:`zoo.DigitGenerator` behind the interface: pixels are the latents, nothing is resized.

    Args:
        module: trained.
        name: for the manifest.
    """

    def __init__(self, module: Any, name: str) -> None:
        h = module.hparams
        self.network: ClassUNet = module.network.eval().requires_grad_(False)
        self.latent_shape = self.picture_shape = (h["channels"], h["image_size"], h["image_size"])
        self.schedule, self.offset, self.name = module.schedule, 1, name
        self.device = torch.device("cpu")
        self.num_classes = h["num_classes"]
        self._all = dict(self.network.unet.attn_processors)
        self._kept: dict[str, KeptAttention] = {}

    def to(self, device: torch.device) -> None:
        self.network.to(device)
        self.device = device

    def keep_maps(self, wanted: bool) -> None:
        unet = self.network.unet
        unet.set_attn_processor(dict(self._all))
        side = self.latent_shape[1]
        levels = len(unet.config.block_out_channels)
        sides = {side // 2**i for i in range(levels)}
        self._kept = keep_attention(unet, sides) if wanted else {}

    def prompts(self, labels: Sequence[int]) -> Prompts:
        chosen = torch.tensor(list(labels), device=self.device)
        with torch.no_grad():
            rows = torch.stack([self.network.text(torch.full_like(chosen, -1)), self.network.text(chosen)])
        tokens = torch.zeros(len(chosen), ClassTokens.LENGTH, device=self.device)
        tokens[:, ClassTokens.CLASS] = 1
        return Prompts(rows, tokens, [f"[BOS, {label}, EOS, PAD]" for label in labels])

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        return images.float()

    def decode(self, latents: Tensor) -> Tensor:
        return latents.float()

    def eps(self, x: Tensor, t: int, embeddings: Tensor) -> Tensor:
        for processor in self._kept.values():
            processor.forget()
        both, rows = torch.cat([x, x]), embeddings.flatten(0, 1)
        times = torch.full((len(both),), t, device=x.device)
        return self.network.unet(both, times, rows, return_dict=False)[0].float()

    def maps(self) -> list[Tensor]:
        return [p.kept for p in self._kept.values() if p.kept is not None]


def class_schedule(timesteps: int, start: float, end: float) -> NoiseSchedule:
    """Scaled-linear, as Stable Diffusion's."""
    return NoiseSchedule(scaled_linear_betas(timesteps, start, end))
