"""Balls of perturbations in l_inf and l_2, and lengths of single images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]
_TINY = 1e-12


def wide(values: Tensor, images: Tensor) -> Tensor:
    """One number per image (N,) as (N, 1, 1, 1)."""
    return values.view(-1, *[1] * (images.dim() - 1))


def lengths(images: Tensor) -> Tensor:
    """l_2 norm of each image, (N,)."""
    return images.flatten(1).norm(dim=1)


def largest(images: Tensor) -> Tensor:
    """l_inf norm of each image, (N,)."""
    return images.flatten(1).abs().amax(dim=1)


@dataclass(frozen=True)
class Ball:
    """All images within ``radius`` of a centre, in [0, 1].

    l_inf: clamp(x, c - r, c + r). l_2: c + (x - c) min(r, |x - c|) / (|x - c| + 1e-12). Then clamp to [0, 1].
    """

    norm: Norm
    radius: float

    def project(self, images: Tensor, centre: Tensor, clip: bool = True) -> Tensor:
        """The nearest point of the ball, (N, C, H, W)."""
        if self.norm == "linf":
            found = images.clamp(centre - self.radius, centre + self.radius)
        else:
            offset = images - centre
            length = lengths(offset)
            found = centre + offset * wide(length.clamp(max=self.radius) / (length + _TINY), offset)
        return found.clamp(0, 1) if clip else found

    def with_radius(self, radius: float) -> Ball:
        return Ball(self.norm, radius)

    def size(self, offset: Tensor) -> Tensor:
        """Length of each offset in this norm, (N,)."""
        return largest(offset) if self.norm == "linf" else lengths(offset)

    def direction(self, gradient: Tensor) -> Tensor:
        """Steepest ascent of unit length: the sign in l_inf, the gradient over its length in l_2."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / wide(lengths(gradient) + _TINY, gradient)

    def scaled(self, draws: Tensor) -> Tensor:
        """A start on the sphere: t / max|t| of uniform t, or t / |t| of normal t."""
        return draws / wide(self.size(draws).clamp(min=_TINY), draws) * self.radius


def in_both(images: Tensor, anchor: Tensor, centre: Tensor, outer: Ball, inner: Ball) -> Tensor:
    """P_glob(P_loc(x)): the local ball around ``centre``, then the global one around ``anchor``."""
    return outer.project(inner.project(images, centre), anchor)


def rounded(images: Tensor) -> Tensor:
    """To the 256 values of an 8-bit file."""
    return torch.round(images * 255) / 255
