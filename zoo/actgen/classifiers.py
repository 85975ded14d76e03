"""The classifiers, by name: a small CNN for digits, residual networks and vision transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

ClassifierName = Literal[
    "cnn",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
]
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VITS = tuple(f"{kind}_{size}_patch16_224" for kind in ("vit", "deit") for size in ("tiny", "small", "base"))
_LEAST_CNN = 4


class SmallCNN(nn.Sequential):
    """Convolutions 1-16 and 16-32 (3x3, each with ReLU and a max-pool of 2), then 64 units and the classes.

    Args:
        size: side of the images, a multiple of 4.
        channels: of the images.
        classes: K.
    """

    def __init__(self, size: int, channels: int, classes: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (size // 4) ** 2, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )


class Standardised(nn.Module):
    """A classifier of images in [0, 1]: (x - mean) / std, then the network.

    Args:
        body: of standardised images.
        mean: of each channel, or one for all.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        # settings, not weights: a state dict has none of them
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, S, S) in [0, 1] -> class scores (B, K)."""
        return self.body((image - self.mean) / self.std)


def classifier_of(h: Mapping[str, Any]) -> Standardised:
    """The network that hyperparameters ask for.

    Raises:
        ValueError: for an image that the network cannot take.
    """
    name, size, channels, classes = (h[k] for k in ("classifier", "image_size", "channels", "num_classes"))
    body: nn.Module
    if name == "cnn":
        if size % _LEAST_CNN:
            raise ValueError(f"model.init_args.image_size must be a multiple of 4 for the cnn, got {size}")
        body = SmallCNN(size, channels, classes)
    elif name in RESNETS:
        from zoo.nn.resnet import ResNet

        body = ResNet(name, classes, stem=h["stem"], channels=channels, dropout=h["dropout"])
    else:
        from zoo.nn.vision_transformer import VisionTransformer

        if size % 16:
            raise ValueError(f"model.init_args.image_size must be a multiple of 16 for {name}, got {size}")
        body = VisionTransformer(
            name, classes, size, channels=channels, drop_path=h["drop_path"], dropout=h["dropout"]
        )
    for key in ("mean", "std"):
        if len(h[key]) not in (1, channels):
            raise ValueError(
                f"model.init_args.{key} has {len(h[key])} numbers for {channels} channels: give one, or "
                "one each"
            )
    return Standardised(body, h["mean"], h["std"])
