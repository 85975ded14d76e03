"""The trunk of the ECCV paper: VGG-16's convolutions, with torchvision's parameter names but without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

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
