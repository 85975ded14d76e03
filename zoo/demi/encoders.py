"""Encoders of images: residual networks without their classifier, and four convolutions for digits."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.nn.resnet import ResNet, Stem

Encoder = Literal["cnn", "resnet18", "resnet50"]
Pixels = Literal["centred", "imagenet"]
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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


class Projection(nn.Module):
    """Linear, ReLU, Linear, L2-normalised: heads h, m and that of the keys."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, z: Tensor) -> Tensor:
        return functional.normalize(self.layers(z).float(), dim=1)


class Pieces(nn.Module):
    """A picture in pieces: a layer on the features of each, another on all of them, a unit vector.

    The second branch of InfoMin (Tian et al. 2020) after PIRL.

    Args:
        inputs: F.
        cells: of a picture.
        outputs: E.
    """

    def __init__(self, inputs: int, cells: int, outputs: int) -> None:
        super().__init__()
        self.each, self.all = nn.Linear(inputs, outputs), nn.Linear(cells * outputs, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(B, E) of features (B, cells, F)."""
        joined = self.each(features).flatten(1)
        return functional.normalize(self.all(functional.relu(joined)).float(), dim=1)


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
    return DigitEncoder(channels, size) if name == "cnn" else ResNet(name, None, stem, channels)


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
        pixels: what the encoder reads: ``centred`` in [-1, 1], or ``imagenet``, standardised as published
            weights were trained.
        jigsaw: cells of a picture in pieces, which have a head of their own; 0 has none.
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
        pixels: Pixels = "centred",
        jigsaw: int = 0,
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
        self.pixels = pixels
        self.pieces = Pieces(features, jigsaw, outputs) if jigsaw else None

    def forward(self, image: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, S, S) in [0, 1]; the encoder itself reads [-1, 1]."""
        return self.encoded(centred(image))

    def encoded(self, view: Tensor) -> Tensor:
        """Features (B, F) of views (B, C, S, S) in [-1, 1]."""
        return self.encoder(self.read(view))

    def read(self, view: Tensor) -> Tensor:
        """A view in [-1, 1] as the encoder takes it."""
        if self.pixels == "centred":
            return view
        mean, deviation = (view.new_tensor(v)[:, None, None] for v in (_MEAN, _DEVIATION))
        return ((view + 1) / 2 - mean) / deviation

    def keys(self, y: Tensor) -> Tensor:
        """Unit vectors (B, E) of the other view, without gradient where momentum makes them."""
        if self.key_head is not None:
            return self.key_head(self.encoded(y))
        assert self.key is not None
        with torch.no_grad():
            return self.key(self.read(y))

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Key weights = momentum x key weights + (1 - momentum) x those of e and h; not its statistics."""
        if self.key is not None:
            theirs: list[Tensor] = [*self.encoder.parameters(), *self.critic.parameters()]
            ours: list[Tensor] = list(self.key.parameters())
            torch._foreach_lerp_(ours, theirs, 1 - momentum)
