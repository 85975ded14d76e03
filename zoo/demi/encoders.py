"""Encoders of images: ResNet-18 and -50 under torchvision's key names, and four convolutions for digits."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Encoder = Literal["cnn", "resnet18", "resnet50"]
Stem = Literal["cifar", "imagenet"]
_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


class DigitEncoder(nn.Module):
    """Convolutions of 32, 32, 64 and 64 channels, the second and the fourth with stride 2; no pooling.

    Shapes:
        (B, C, S, S) -> (B, 64 ceil(S / 4)^2); 256 features of 8 x 8 digits
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        widths, strides = (channels, 32, 32, 64, 64), (1, 2, 1, 2)
        layers: list[nn.Module] = []
        for before, width, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [nn.Conv2d(before, width, 3, stride, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.features = 64 * ((size + 3) // 4) ** 2

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class _Basic(nn.Module):
    """Two 3x3 convolutions, added to the input (He et al. 2016)."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(
            self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))
        )


class _Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision since 1.5) and 1x1 convolutions, added to the input."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(before, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(
            self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x))
        )


def _shortcut(before: int, width: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and before == width:
        return None
    return nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))


class ResNet(nn.Module):
    """ResNet-18 or -50 without its classifier, mean over places at the end.

    Args:
        name: ``resnet18`` (512 features, 11,176,512 parameters with the ImageNet stem) or ``resnet50`` (2048,
            23,508,032).
        stem: ``imagenet``, a 7x7 convolution of stride 2 and a max-pool; ``cifar``, a 3x3 one of stride 1.
        channels: of the pictures.

    Shapes:
        (B, C, S, S) -> (B, F)
    """

    def __init__(self, name: Encoder, stem: Stem, channels: int = 3) -> None:
        super().__init__()
        block = _Basic if name == "resnet18" else _Bottleneck
        wide = stem == "imagenet"
        self.conv1 = nn.Conv2d(channels, 64, 7 if wide else 3, 2 if wide else 1, 3 if wide else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if wide else nn.Identity()
        before = 64
        for i, (width, blocks) in enumerate(zip((64, 128, 256, 512), _BLOCKS[name], strict=True)):
            stage = []
            for place in range(blocks):
                stage.append(block(before, width, 2 if i and not place else 1))
                before = block.expansion * width
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.features = before
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # torchvision's
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(image))))
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return x.mean(dim=(2, 3))


class Projection(nn.Module):
    """Linear, ReLU, Linear, L2-normalised: heads h, m and that of the keys."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, z: Tensor) -> Tensor:
        return functional.normalize(self.layers(z).float(), dim=1)


class Side(nn.Module):
    """An encoder with a head: what momentum makes keys with."""

    def __init__(self, encoder: DigitEncoder | ResNet, head: Projection) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.encoder(image))


def centred(image: Tensor) -> Tensor:
    """Images of [0, 1] in [-1, 1], as views and encoders take them."""
    return 2 * image - 1


def encoder_of(name: Encoder, stem: Stem, channels: int, size: int) -> DigitEncoder | ResNet:
    """The encoder of a name."""
    return DigitEncoder(channels, size) if name == "cnn" else ResNet(name, stem, channels)


class Views(nn.Module):
    """Encoder, heads and keys of the two views.

    psi(x'', y) = <h(z''), k> / t and phi(x'', x', y) = <m([z', z'']), k> / t with z = e(x), k the key of y.

    Args:
        name: of the encoder.
        stem: of a ResNet.
        channels: of the pictures.
        size: of the pictures.
        hidden: units of the heads.
        outputs: of the heads.
        conditional: whether there is a second critic m on [z', z''].
        momentum: whether keys come from a copy of e and h that follows by momentum, else from e and a head
            of their own that both terms train.
    """

    def __init__(
        self,
        name: Encoder,
        stem: Stem,
        channels: int,
        size: int,
        hidden: int,
        outputs: int,
        conditional: bool,
        momentum: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder_of(name, stem, channels, size)
        features = self.encoder.features
        self.critic = Projection(features, hidden, outputs)
        self.conditional = Projection(2 * features, hidden, outputs) if conditional else None
        self.key_head = None if momentum else Projection(features, hidden, outputs)
        self.key: Side | None = None
        if momentum:
            self.key = Side(copy.deepcopy(self.encoder), copy.deepcopy(self.critic)).requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, S, S) in [0, 1]; the encoder itself reads [-1, 1]."""
        return self.encoder(centred(image))

    def keys(self, y: Tensor) -> Tensor:
        """Unit vectors (B, E) of the other view, without gradient where momentum makes them."""
        if self.key_head is not None:
            return self.key_head(self.encoder(y))
        assert self.key is not None
        with torch.no_grad():
            return self.key(y)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Key weights = momentum x key weights + (1 - momentum) x those of e and h; not its statistics."""
        if self.key is not None:
            theirs: list[Tensor] = [*self.encoder.parameters(), *self.critic.parameters()]
            ours: list[Tensor] = list(self.key.parameters())
            torch._foreach_lerp_(ours, theirs, 1 - momentum)
