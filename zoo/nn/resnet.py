"""Residual networks (He et al., CVPR 2016) under torchvision's parameter names, without torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from zoo.nn.ranges import Depth, Rate, Size, check_ranges

ResNetName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
Stem = Literal["imagenet", "cifar"]
BatchNorm = Callable[[int], nn.Module]
BLOCKS: dict[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
BASIC = ("resnet18", "resnet34")
"""Those of two 3x3 convolutions a block."""


class BasicBlock(nn.Module):
    """relu(x + bn2(conv2(relu(bn1(conv1 x))))): two 3x3 convolutions, added to the input (figure 5, left)."""

    expansion = 1

    def __init__(
        self, before: int, width: int, stride: int = 1, batch_norm: BatchNorm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = batch_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = batch_norm(width)
        self.downsample = _shortcut(before, width, stride, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, added to the input (figure 5, right).

    The stride is in the 3x3, as in torchvision and its weights, not in the first 1x1 as in the paper.
    """

    expansion = 4

    def __init__(
        self, before: int, width: int, stride: int = 1, batch_norm: BatchNorm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = batch_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = batch_norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = batch_norm(4 * width)
        self.downsample = _shortcut(before, 4 * width, stride, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


def _shortcut(before: int, width: int, stride: int, batch_norm: BatchNorm) -> nn.Sequential | None:
    if stride == 1 and before == width:
        return None
    return nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), batch_norm(width))


class ResNet(nn.Module):
    """ResNet-18, -34, -50, -101 or -152.

    Parameters with the ImageNet stem and 1,000 classes: 11,689,512, 21,797,672, 25,557,032, 44,549,160 and
    60,192,808; ResNet-50 with the CIFAR stem has 23,520,842 for 10 classes and 23,705,252 for 100.

    Args:
        name: which.
        num_classes: of the last layer ``fc``; None leaves it out.
        stem: ``imagenet``, a 7x7 convolution of stride 2 and a max-pool; ``cifar``, a 3x3 one of stride 1 and
            no max-pool, for pictures of some 32 pixels.
        channels: of the pictures.
        dropout: of the pooled features, before ``fc``.
        batch_norm: layer of a number of channels, for example :class:`zoo.nn.batch_norm.GlobalBatchNorm2d`,
            whose parameters have the same names.

    Shapes:
        (B, C, H, W) -> (B, ``num_classes``), or (B, ``features``) without ``fc``

    Raises:
        ValueError: for a name or stem that is none, or numbers out of their ranges.
    """

    def __init__(
        self,
        name: ResNetName,
        num_classes: Size | None = 1000,
        stem: Stem = "imagenet",
        channels: Depth = 3,
        dropout: Rate = 0.0,
        batch_norm: BatchNorm = nn.BatchNorm2d,
    ) -> None:
        check_ranges(ResNet, locals())
        for key, given, choices in (("name", name, ResNetName), ("stem", stem, Stem)):
            if given not in get_args(choices):
                raise ValueError(f"ResNet.{key} must be one of {', '.join(get_args(choices))}, got {given!r}")
        super().__init__()
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if name in BASIC else Bottleneck
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = batch_norm(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if stem == "imagenet" else nn.Identity()
        before = 64
        for i, (width, blocks) in enumerate(zip((64, 128, 256, 512), BLOCKS[name], strict=True)):
            stage = []
            for place in range(blocks):
                stage.append(block(before, width, 2 if i and not place else 1, batch_norm))
                before = block.expansion * width
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.features = before
        self.drop = nn.Dropout(dropout)
        self.fc = None if num_classes is None else nn.Linear(before, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # torchvision's
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, image: Tensor) -> list[Tensor]:
        """After the stem's ReLU (64 channels), then after ``layer1`` .. ``layer4``.

        Sides with the ImageNet stem: 1/2, 1/4, 1/8, 1/16, 1/32; with the CIFAR stem 1, 1, 1/2, 1/4, 1/8.
        """
        x = functional.relu(self.bn1(self.conv1(image)), inplace=True)
        kept = [x]
        x = self.maxpool(x)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            kept.append(x)
        return kept

    def pooled(self, image: Tensor) -> Tensor:
        """The mean of the last stage over all places, (B, ``features``)."""
        return self.stages(image)[-1].mean(dim=(2, 3))

    def forward(self, image: Tensor) -> Tensor:
        z = self.pooled(image)
        return z if self.fc is None else self.fc(self.drop(z))
