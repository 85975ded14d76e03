"""Classifiers: the small CNN that the figures are re-tested on, and the published robust ones' networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.nn.batch_norm import GlobalBatchNorm2d
from zoo.nn.resnet import ResNet, Stem

Arch = Literal["small", "resnet18", "resnet50", "wrn_28_10", "wrn_34_10"]
Normalisation = Literal["none", "cifar", "imagenet", "half"]
WIDE = {"wrn_28_10": (28, 10), "wrn_34_10": (34, 10)}
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,), (1.0,)),
    "cifar": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,), (0.5,)),
}
"""Mean and standard deviation of each channel, or one for all, of images in [0, 1]."""


class SmallCNN(nn.Sequential):
    """conv 3x3 to W, conv 3x3 stride 2 to 2 W, fc to hidden, fc to K: 38,282 parameters on 8 x 8 digits.

    Args:
        channels: C of the images.
        size: of their sides.
        width: W.
        hidden: units of the hidden layer.
        classes: K.
    """

    def __init__(self, channels: int, size: int, width: int, hidden: int, classes: int) -> None:
        half = (size + 1) // 2
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * half * half, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> logits (N, K)."""
        found: Tensor = super().forward(input)
        return found


class _WideBlock(nn.Module):
    """x + conv2(relu(bn2(conv1(relu(bn1 x))))), the shortcut of a block that widens from relu(bn1 x)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = GlobalBatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn2 = GlobalBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = None if before == width else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(x))
        z = self.conv2(functional.relu(self.bn2(self.conv1(y))))
        return z + (x if self.convShortcut is None else self.convShortcut(y))


class _WideStage(nn.Module):
    def __init__(self, blocks: int, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(_WideBlock(width if i else before, width, 1 if i else stride) for i in range(blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found


class WideResNet(nn.Module):
    """Wide residual network (Zagoruyko & Komodakis, BMVC 2016) under the names of TRADES and RobustBench.

    WRN-28-10 has 36,479,194 parameters for 10 classes, WRN-34-10 46,160,474.

    Args:
        depth: 6 n + 4.
        widen: factor of the widths 16, 32, 64.
        classes: K.
        channels: C.

    Shapes:
        (N, C, S, S) -> (N, K)
    """

    def __init__(self, depth: int, widen: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _WideStage(blocks, widths[0], widths[1], 1)
        self.block2 = _WideStage(blocks, widths[1], widths[2], 2)
        self.block3 = _WideStage(blocks, widths[2], widths[3], 2)
        self.bn1 = GlobalBatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        found: Tensor = self.fc(functional.relu(self.bn1(x)).mean(dim=(2, 3)))
        return found


class Normalised(nn.Module):
    """A network of (x - mean) / std, for images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        # what the constructor says, so in no state dict
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] -> logits (N, K)."""
        found: Tensor = self.model((input - self.mean) / self.std)
        return found


def build(
    arch: Arch, stem: Stem, channels: int, size: int, classes: int, width: int, hidden: int
) -> nn.Module:
    """The network of a name."""
    if arch == "small":
        return SmallCNN(channels, size, width, hidden, classes)
    if arch in WIDE:
        return WideResNet(*WIDE[arch], classes, channels)
    return ResNet(arch, classes, stem, channels, batch_norm=GlobalBatchNorm2d)  # type: ignore[arg-type]
