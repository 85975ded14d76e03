"""The small CNN that the paper's figures are re-tested on."""

from __future__ import annotations

from torch import Tensor, nn


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
