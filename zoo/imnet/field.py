"""The implicit field: where its points lie, how its output is bounded, what its loss is.

A point is (x, y, z) = (i, j, k) of the voxel array, never meshgrid's ``xy``. The data give points in the unit
cube, u = (i + 0.5) / R; the two published versions place them differently.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Version = Literal["v1", "v2"]
PointSampling = Literal["random", "contiguous", "consecutive"]
PointWeight = Literal["none", "density"]
LEAK = 0.01
_DENSITY_CELLS = 16


def coordinates(unit: Tensor, version: Version) -> Tensor:
    """Points of the unit cube as the decoder takes them: [-1, 1] in ``v1``, [-0.5, 0.5] in ``v2``."""
    return unit * 2 - 1 if version == "v1" else unit - 0.5


def grid_points(resolution: int, dims: int = 3, device: torch.device | str = "cpu") -> Tensor:
    """Cell centres of an R^dims grid in the unit cube, (R^dims, dims), the last axis fastest."""
    axis = (torch.arange(resolution, device=device) + 0.5) / resolution
    return torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij"), dim=-1).reshape(-1, dims)


def leaky_clamp(h: Tensor) -> Tensor:
    """max(min(h, 0.01 h + 0.99), 0.01 h): slope 1 in [0, 1], 0.01 outside.

    The hard clip of the TensorFlow code has no gradient outside [0, 1]: outputs there never come back.
    """
    return torch.maximum(torch.minimum(h, LEAK * h + (1 - LEAK)), LEAK * h)


def field_loss(predicted: Tensor, values: Tensor, weight: Tensor | None = None) -> Tensor:
    """sum_p w_p |f(p) - F(p)|^2 / sum_p w_p per shape, averaged over shapes; (B, P) each.

    All released code has w = 1: the weighting is in where points are sampled.
    """
    error = (predicted - values).square()
    if weight is None:
        return error.mean()
    return ((weight * error).sum(dim=1) / weight.sum(dim=1)).mean()


def density_weights(unit: Tensor) -> Tensor:
    """Inverse sampling density of points (B, P, D) of the unit cube, (B, P).

    The density at a point is the number of the shape's points in its cell of a 16^D grid.
    """
    batch, _, dims = unit.shape
    cell = (unit * _DENSITY_CELLS).long().clamp(0, _DENSITY_CELLS - 1)
    place = cell[..., 0]
    for axis in range(1, dims):
        place = place * _DENSITY_CELLS + cell[..., axis]
    counts = torch.zeros(batch, _DENSITY_CELLS**dims, device=unit.device)
    counts.scatter_add_(1, place, torch.ones_like(place, dtype=counts.dtype))
    return 1 / counts.gather(1, place)


def chosen_points(
    shapes: int,
    available: int,
    wanted: int | None,
    sampling: PointSampling,
    generator: torch.Generator,
    epoch: int = 0,
) -> Tensor:
    """Which of a shape's stored points a step sees, int64 (shapes, wanted).

    ``contiguous``: the rows ``wanted * k`` to ``wanted * (k + 1) - 1`` of all shapes, one k per step, as the
    PyTorch release; ``random``: other points for each shape, since the stored order is that of a scan and a
    block of it is a part of the shape; ``consecutive``: block ``epoch`` modulo their number, v1's chunks.
    """
    device = generator.device
    if wanted is None or wanted >= available:
        return torch.arange(available, device=device).expand(shapes, -1)
    if sampling == "random":
        draws = torch.rand(shapes, available, generator=generator, device=device)
        return draws.topk(wanted, dim=1, sorted=False).indices
    blocks = available // wanted
    if sampling == "consecutive":
        block = epoch % blocks
    else:
        block = int(torch.randint(blocks, (), generator=generator, device=device))
    return torch.arange(block * wanted, (block + 1) * wanted, device=device).expand(shapes, -1)


def reparameterised(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """mean + exp(log_variance / 2) noise: codes of a variational autoencoder."""
    return mean + noise * (0.5 * log_variance).exp()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) per shape, (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def stride_two_layers(size: int) -> int:
    """Halvings from ``size`` to 4.

    Raises:
        ValueError: for a size that is not 4 times a power of two.
    """
    layers = round(math.log2(size / 4)) if size >= 8 else 0
    if layers < 1 or 4 * 2**layers != size:
        raise ValueError(f"input_size must be 8, 16, 32, 64, ..., or 28 for pictures, got {size}")
    return layers
