"""The trunks: VGG-16's convolutions and ResNet-50, with torchvision's parameter names but without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Pool = Literal["torch", "caffe"]
VGG16 = (64, 128, 256, 512, 512)
_CONVOLUTIONS = (2, 2, 3, 3, 3)


class VGG(nn.Module):
    """VGG-16 without its classifier; ``features.N`` are torchvision's places.

    Args:
        widths: channels of the five stages.
        pool: ``torch`` has 2x2 pools that round down; ``caffe`` rounds up, and pools 4 and 5 are 3x3 with
            stride 2 and padding 1.

    Shapes:
        (B, 3, H, W) -> f1..f5, the stages after their last ReLU, at 1, 1/2, 1/4, 1/8, 1/16; f6, pooled, 1/32
    """

    def __init__(self, widths: Sequence[int] = VGG16, pool: Pool = "torch") -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        before = 3
        for stage, (width, convolutions) in enumerate(zip(widths, _CONVOLUTIONS, strict=True)):
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            self.taps.append(len(layers) - 1)
            wide = pool == "caffe" and stage >= 3
            layers.append(
                nn.MaxPool2d(3 if wide else 2, 2, padding=1 if wide else 0, ceil_mode=pool == "caffe")
            )
        self.features = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):  # torchvision's, for training from scratch
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> list[Tensor]:
        kept = []
        for place, layer in enumerate(self.features):
            image = layer(image)
            if place in self.taps:
                kept.append(image)
        return [*kept, image]


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision since 1.5) and 1x1 convolutions, added to the input."""

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = (
            nn.Sequential(nn.Conv2d(before, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
            if stride > 1 or before != 4 * width
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet50(nn.Module):
    """ResNet-50 without pooling and classifier.

    Shapes:
        (B, 3, H, W) -> 64 channels at 1/2 (after bn1 and ReLU), then layer1..layer4: 256 at 1/4, 512 at 1/8,
        1024 at 1/16, 2048 at 1/32
    """

    channels = (64, 256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = 64
        for i, (width, blocks) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True)):
            stage = []
            for block in range(blocks):
                stage.append(Bottleneck(before, width, stride=2 if i and not block else 1))
                before = 4 * width
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        x = functional.relu(self.bn1(self.conv1(image)))
        kept = [x]
        x = self.maxpool(x)
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
            kept.append(x)
        return kept
