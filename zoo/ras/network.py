"""The networks: RAS on VGG-16 (ECCV 2018), its ResNet-50 follow-ups (TIP 2020), and a tiny one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.nn.resnet import ResNet
from zoo.ras.attention import Attention, ReverseAttention, attention_weight, deconvolve_to, resize_to
from zoo.ras.backbones import VGG, VGG16, Pool

Variant = Literal["vgg16", "resnet50_v1", "resnet50_v2", "tiny"]
VARIANTS: tuple[Variant, ...] = ("vgg16", "resnet50_v1", "resnet50_v2", "tiny")
Pixels = Literal["imagenet", "caffe", "port"]
_CHANNELS = (64, 256, 512, 1024, 2048)  # of ResNet-50's stages
# mean and standard deviation of RGB in [0, 1]; `caffe` is BGR in 0..255 with its mean subtracted
_STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "port": ((124.55 / 255, 118.90 / 255, 102.94 / 255), (56.77 / 255, 55.97 / 255, 57.50 / 255)),
    "caffe": ((104.00699, 116.66877, 122.67892), (1.0, 1.0, 1.0)),
}


@dataclass
class Refinement:
    """What a network found on its way from coarse to fine.

    Attributes:
        logits: side -> (B, 1, h, w), each at its own size; the largest number is the global map, the
            smallest the prediction. Coarse to fine.
        coarse: side -> the coarser logits at that side's size, u.
    """

    logits: dict[int, Tensor]
    coarse: dict[int, Tensor]

    def attention(self, kind: Attention) -> dict[int, Tensor]:
        """Side -> attention weight (B, 1, h, w)."""
        return {side: attention_weight(u, kind) for side, u in self.coarse.items()}


class _SaliencyNetwork(nn.Module):
    """The pass from coarse to fine, of all variants.

    Args:
        pixels: how RGB in [0, 1] is normalised: ``imagenet`` (torchvision), ``port`` (the second port) or
            ``caffe``.
        attention: ``reverse``, ``forward`` or ``none``, the ablation.
        residual: false gives y = r in the place of y = r + u.
        refinement: false stops at the global map, enlarged to the image.
    """

    sides: tuple[int, ...]
    """Numbers of the side outputs from the global map down."""
    least_side = 1
    """Of a picture, in pixels."""
    mean: Tensor
    deviation: Tensor

    def __init__(self, pixels: Pixels, attention: Attention, residual: bool, refinement: bool) -> None:
        super().__init__()
        self.pixels, self.attention, self.residual, self.refinement = pixels, attention, residual, refinement
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in _STATISTICS[pixels])
        self.register_buffer("mean", mean, persistent=False)  # no parts of the official files
        self.register_buffer("deviation", deviation, persistent=False)

    def normalise(self, image: Tensor) -> Tensor:
        """RGB in [0, 1] as the backbone's weights expect it."""
        if self.pixels == "caffe":
            image = 255 * image.flip(1)
        return (image - self.mean) / self.deviation

    def stages(self, image: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """Features of each refining side, and the global logits."""
        raise NotImplementedError

    def stage(self, side: int) -> ReverseAttention:
        """The reverse attention of a side."""
        raise NotImplementedError

    def enlarge(self, logits: Tensor, side: int, to: int, size: tuple[int, int]) -> Tensor:
        """Logits of ``side`` at the size of side ``to``; 0 is the image."""
        raise NotImplementedError

    def refine(self, image: Tensor) -> Refinement:
        """All side logits of an image (B, 3, H, W) in [0, 1], each at its own size."""
        features, coarsest = self.stages(self.normalise(image))
        found = Refinement({self.sides[0]: coarsest}, {})
        if not self.refinement:
            return found
        logits, before = coarsest, self.sides[0]
        for side in self.sides[1:]:
            f = features[side]
            u = self.enlarge(logits, before, side, (f.shape[2], f.shape[3]))
            logits = self.stage(side)(f, u, self.attention, self.residual)
            found.coarse[side], found.logits[side], before = u, logits, side
        return found

    def forward(self, image: Tensor, all_sides: bool = False) -> Tensor:
        """Logits at the image's size.

        Args:
            image: (B, 3, H, W) in [0, 1], of any size.
            all_sides: those of every side, for the loss.

        Returns:
            (B, 1, H, W), the last refinement; with ``all_sides`` (B, S, H, W), fine to coarse.
        """
        size = (image.shape[2], image.shape[3])
        found = list(self.refine(image).logits.items())[::-1]
        shown = found if all_sides else found[:1]
        return torch.cat([self.enlarge(y, side, 0, size) for side, y in shown], dim=1)


class RASNetwork(_SaliencyNetwork):
    """RAS of ECCV 2018: VGG-16, a global map at 1/32 and five stages of reverse attention.

    Parameters are named ``backbone.features.N`` as torchvision's and ``dsn{i}.conv{k}`` as the released
    caffemodel's ``conv{k}-dsn{i}``.

    Args:
        widths: of VGG's stages.
        global_channels: of the global branch.
        side_channels: of the stages' hidden layers.
        pool: see :class:`zoo.ras.backbones.VGG`. ``caffe`` enlarges with Caffe's deconvolution and crop, as
            its pools shift the grid; ``torch`` with plain bilinear interpolation.
        head_init: ``normal`` is N(0, 0.01); ``kaiming`` is He's for the hidden layers, for training from
            scratch.
    """

    sides = (6, 5, 4, 3, 2, 1)

    def __init__(
        self,
        widths: Sequence[int] = VGG16,
        global_channels: int = 256,
        side_channels: int = 64,
        pool: Pool = "torch",
        head_init: Literal["normal", "kaiming"] = "normal",
        pixels: Pixels = "imagenet",
        attention: Attention = "reverse",
        residual: bool = True,
        refinement: bool = True,
    ) -> None:
        super().__init__(pixels, attention, residual, refinement)
        self.pool = pool
        self.least_side = 32 if pool == "torch" else 1  # five pools that round down leave nothing of less
        self.backbone = VGG(widths, pool)
        self.dsn6 = GlobalBranch(widths[-1], global_channels)
        last = [self.dsn6.conv5]
        for side in self.sides[1:] if refinement else ():
            stage = ReverseAttention(widths[side - 1], side_channels)
            setattr(self, f"dsn{side}", stage)
            last.append(stage.last)
        heads = [m for name, m in self.named_modules() if name.startswith("dsn")]
        initialise(heads, last, head_init)

    def stage(self, side: int) -> ReverseAttention:
        found: ReverseAttention = getattr(self, f"dsn{side}")
        return found

    def stages(self, image: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        f1, f2, f3, f4, f5, f6 = self.backbone(image)
        return {1: f1, 2: f2, 3: f3, 4: f4, 5: f5}, self.dsn6(f6)

    def enlarge(self, logits: Tensor, side: int, to: int, size: tuple[int, int]) -> Tensor:
        levels = side - max(to, 1)  # side 1 has the size of the image
        if levels == 0:
            return logits
        if self.pool == "torch":
            return resize_to(logits, size, align_corners=False)
        return deconvolve_to(logits, size, 2**levels, side)


class GlobalBranch(nn.Module):
    """Global logits of the deepest features: 1x1 (without ReLU), three 5x5 with ReLU, 1x1."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv3 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv4 = nn.Conv2d(channels, channels, 5, padding=2)
        self.conv5 = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for layer in (self.conv2, self.conv3, self.conv4):
            x = functional.relu(layer(x))
        return self.conv5(x)


class MSCM(nn.Module):
    """Multi-scale context of the ports: 1x1 to 64, four branches of growing reach, 256 -> 1 logit."""

    def __init__(self, in_channels: int, channels: int = 64, batch_norm: bool = False) -> None:
        super().__init__()
        self.convert = nn.Conv2d(in_channels, channels, 1)
        if batch_norm:
            self.bn = nn.BatchNorm2d(channels)
        self.batch_norm = batch_norm
        for i, (kernel, dilation) in enumerate(((1, 1), (3, 2), (5, 4), (7, 6))):
            layers: list[nn.Module] = []
            second = dilation if i else 1
            for size, spread in ((kernel, 1), (3, second)):
                layers.append(
                    nn.Conv2d(channels, channels, size, padding=spread * (size // 2), dilation=spread)
                )
                layers += [nn.BatchNorm2d(channels)] if batch_norm else []
                layers.append(nn.ReLU(inplace=True))
            setattr(self, f"branch{i + 1}", nn.Sequential(*layers))
        self.score = nn.Conv2d(4 * channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convert(x)
        x = functional.relu(self.bn(x)) if self.batch_norm else x
        return self.score(torch.cat([getattr(self, f"branch{i}")(x) for i in range(1, 5)], dim=1))


class RASResNet(_SaliencyNetwork):
    """RAS of the TIP 2020 ports: ResNet-50, reduction before attention, ``align_corners=True`` throughout.

    Parameters are named as in the ports' files.

    Args:
        version: 1 has four stages, the finest at 1/2, without batch normalisation in the heads; 2 has three,
            the finest at 1/4, with it.
    """

    def __init__(
        self,
        version: Literal[1, 2] = 1,
        pixels: Pixels = "imagenet",
        attention: Attention = "reverse",
        residual: bool = True,
        refinement: bool = True,
    ) -> None:
        super().__init__(pixels, attention, residual, refinement)
        self.version = version
        self.sides = (5, 4, 3, 2, 1) if version == 1 else (5, 4, 3, 2)
        trunk, normed = ResNet("resnet50", num_classes=None), version == 2
        if version == 1:
            self.resnet = trunk
        else:
            self.bkbone = trunk
        self.mscm = MSCM(trunk.features, batch_norm=normed)
        last = [self.mscm.score]
        for side in self.sides[1:] if refinement else ():
            stage = ReverseAttention(_CHANNELS[side - 1], 64, "after", normed)
            setattr(self, f"ra{side}", stage)
            last.append(stage.last)
        heads = [m for name, m in self.named_modules() if name.startswith(("ra", "mscm"))]
        initialise(heads, last, "kaiming" if normed else "normal", all_kaiming=normed)

    @property
    def backbone(self) -> ResNet:
        """The trunk, whatever the port calls it."""
        return self.resnet if self.version == 1 else self.bkbone

    def stage(self, side: int) -> ReverseAttention:
        found: ReverseAttention = getattr(self, f"ra{side}")
        return found

    def stages(self, image: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        *features, deepest = self.backbone.stages(image)
        return dict(enumerate(features, start=1)), self.mscm(deepest)

    def enlarge(self, logits: Tensor, side: int, to: int, size: tuple[int, int]) -> Tensor:
        return resize_to(logits, size, align_corners=True)


def initialise(
    heads: Sequence[nn.Module],
    last: Sequence[nn.Conv2d],
    kind: Literal["normal", "kaiming"],
    all_kaiming: bool = False,
) -> None:
    """New convolutions: N(0, 0.01) or He's of the fan-in; the ``last`` are N(0, 0.01) unless
    ``all_kaiming``."""
    for layer in heads:
        if not isinstance(layer, nn.Conv2d):
            continue
        if kind == "kaiming" and (all_kaiming or all(layer is not other for other in last)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        else:
            nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def build(
    variant: Variant,
    pool: Pool = "torch",
    pixels: Pixels | None = None,
    attention: Attention = "reverse",
    residual: bool = True,
    refinement: bool = True,
) -> RASNetwork | RASResNet:
    """The network of a variant.

    Args:
        pixels: null is the variant's own: ``caffe`` for Caffe's pools, ``port`` for ``resnet50_v2``, else
            ``imagenet``.

    Raises:
        ValueError: for an unknown variant, or Caffe's pools without a VGG.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if pool not in ("torch", "caffe") or (pool == "caffe" and variant.startswith("resnet")):
        raise ValueError(f"pool is torch, or caffe for a VGG variant; got {pool!r} for {variant}")
    own: Pixels = "caffe" if pool == "caffe" else "port" if variant == "resnet50_v2" else "imagenet"
    switches = (pixels or own, attention, residual, refinement)
    if variant == "vgg16":
        return RASNetwork(VGG16, 256, 64, pool, "normal", *switches)
    if variant == "tiny":
        return RASNetwork((8, 16, 32, 64, 64), 16, 16, pool, "kaiming", *switches)
    return RASResNet(1 if variant == "resnet50_v1" else 2, *switches)
