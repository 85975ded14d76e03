"""Reverse attention: a stage learns what the coarser map has missed, from features without what it has found.

With u the logits of the coarser map at this stage's size, the weight is a = 1 - sigmoid(u) = sigmoid(-u). The
stage gives r + u: a residual of logits, from features that a multiplies.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Attention = Literal["reverse", "forward", "none"]
ATTENTIONS: tuple[Attention, ...] = ("reverse", "forward", "none")


def attention_weight(coarse: Tensor, attention: Attention = "reverse") -> Tensor:
    """Weight of each position, (B, 1, H, W) in [0, 1], from the coarser logits (B, 1, H, W).

    ``reverse`` is sigmoid(-u): 0 where the object is found already; ``forward`` is sigmoid(u); ``none`` is 1.
    """
    if attention == "none":
        return torch.ones_like(coarse)
    return (-coarse if attention == "reverse" else coarse).sigmoid()


class ReverseAttention(nn.Module):
    """One top-down stage: y = r(features, a(u)) + u, with u the coarser logits.

    ``order: before`` (ECCV 2018) multiplies the raw features, then reduces them with a 1x1 convolution
    without ReLU, then has two hidden 3x3 convolutions; ``after`` (TIP 2020) reduces first and has three.

    Args:
        in_channels: C of the features.
        mid_channels: M of the hidden layers.
        order: where the weight is applied, seen from the 1x1 reduction.
        batch_norm: of ``after``: batch normalisation after each convolution but the last, and a ReLU after
            the 1x1 as well (the second port).

    Shapes:
        features (B, C, H, W), coarse (B, 1, H, W) -> (B, 1, H, W)

    Raises:
        ValueError: for another order, or batch normalisation of ``before``.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int = 64,
        order: Literal["before", "after"] = "before",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if order not in ("before", "after") or (batch_norm and order == "before"):
            raise ValueError(
                f"order is before or after, and after for batch_norm; got {order!r}, {batch_norm}"
            )
        self.order, self.batch_norm = order, batch_norm
        m = mid_channels
        if order == "before":  # names of the released caffemodel: conv{k}-dsn{i}
            self.conv1 = nn.Conv2d(in_channels, m, 1)
            self.conv2 = nn.Conv2d(m, m, 3, padding=1)
            self.conv3 = nn.Conv2d(m, m, 3, padding=1)
            self.conv4 = nn.Conv2d(m, 1, 3, padding=1)
            return
        self.convert = nn.Conv2d(in_channels, m, 1)  # names of the ports
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(m, m, 3, padding=1), *([nn.BatchNorm2d(m)] if batch_norm else [])]
            layers.append(nn.ReLU(inplace=True))
        if batch_norm:
            self.bn = nn.BatchNorm2d(m)
        self.convs = nn.Sequential(*layers, nn.Conv2d(m, 1, 3, padding=1))

    @property
    def last(self) -> nn.Conv2d:
        """The convolution that gives the residual."""
        layer = self.conv4 if self.order == "before" else self.convs[-1]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def residual(self, features: Tensor, weight: Tensor | None) -> Tensor:
        """r: logits (B, 1, H, W) from weighted features; None is a weight of 1."""
        if self.order == "after":
            x = self.convert(features)
            x = functional.relu(self.bn(x)) if self.batch_norm else x
            return self.convs(x if weight is None else x * weight)
        if weight is None:
            x = self.conv1(features)
        else:
            # conv(f a) + b = a conv(f) + b: a 1x1 convolution and a weight per position commute, and this is
            # M channels to multiply, not C
            x = functional.conv2d(features, self.conv1.weight) * weight
            x = x + self.conv1.bias.view(1, -1, 1, 1)  # type: ignore[union-attr]
        x = functional.relu(self.conv2(x))
        return self.conv4(functional.relu(self.conv3(x)))

    def forward(
        self, features: Tensor, coarse: Tensor, attention: Attention = "reverse", residual: bool = True
    ) -> Tensor:
        weight = None if attention == "none" else attention_weight(coarse, attention)
        refined = self.residual(features, weight)
        return refined + coarse if residual else refined


# --- up-sampling ------------------------------------------------------------------------------------------


def resize_to(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear to ``size``; to its own size it changes nothing."""
    return functional.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


def bilinear_profile(factor: int) -> Tensor:
    """Weights of Caffe's bilinear filler along one axis: 1 - |k - (s - .5)| / s for k = 0..2s-1."""
    k = torch.arange(2 * factor, dtype=torch.float64)
    return 1 - (k - (factor - 0.5)).abs() / factor


def crop_offset(factor: int, level: int) -> int:
    """Where Caffe's Crop begins: the offset of its coordinate maps, rounded half away from zero.

    A deconvolution by s with kernel 2s puts the centre of its first input at s - .5 of its output. The centre
    of the first output of a pool lies at .5 (2x2) or 0 (3x3 with padding 1) of the pool's input. The offset
    is the distance between the two.

    Args:
        factor: s of the deconvolution, 2 to the number of pools that it undoes.
        level: i of the side whose map it enlarges; pool i - 1 is the last before it.
    """
    centre = 0.0
    for pool in range(level - 1, level - 1 - round(math.log2(factor)), -1):
        centre = 2 * centre + (0.0 if pool >= 4 else 0.5)
    return math.floor(factor - 0.5 - centre + 0.5)


def deconvolve_to(logits: Tensor, size: tuple[int, int], factor: int, level: int) -> Tensor:
    """Caffe's fixed bilinear deconvolution by ``factor`` and its Crop to ``size``.

    Outside the map counts as 0, so logits fade at the border. Nothing here is a parameter.
    """
    profile = bilinear_profile(factor).to(logits)
    large = functional.conv_transpose2d(logits, torch.outer(profile, profile)[None, None], stride=factor)
    top = crop_offset(factor, level)
    return large[..., top : top + size[0], top : top + size[1]]
