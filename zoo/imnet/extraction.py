"""Meshes of implicit fields: coarse-to-fine evaluation, marching cubes, optional refinement.

All in the unit cube until the mesh is made, which lies in [-0.5, 0.5]^3 as the released meshes do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zoo.imnet.field import grid_points

Field = Callable[[Tensor], Tensor]
"""Values (P,) at points (P, 3) of the unit cube."""
Array = np.ndarray[Any, Any]


@dataclass
class Mesh:
    """Triangles with outward normals.

    Attributes:
        vertices: (V, 3) float32 in [-0.5, 0.5].
        faces: (F, 3) int64, counter-clockwise seen from outside.
        normals: (V, 3) of the field at the vertices, or None.
        largest_value: of the grid that it was made from.
    """

    vertices: Array
    faces: Array
    normals: Array | None = None
    largest_value: float = float("nan")

    @property
    def empty(self) -> bool:
        """Whether the field was nowhere above the threshold."""
        return len(self.faces) == 0

    def corners(self) -> Array:
        """The corners of each triangle, (F, 3, 3)."""
        found: Array = self.vertices[self.faces]
        return found

    def volume(self) -> float:
        """Signed volume, positive when normals point outwards."""
        a, b, c = np.moveaxis(self.corners().astype(np.float64), 1, 0)
        return float((a * np.cross(b, c)).sum() / 6)


def chunked(field: Field, points: Tensor, points_per_chunk: int) -> Tensor:
    """``field`` on any number of points in bounded memory."""
    return torch.cat([field(part) for part in points.split(points_per_chunk)])


def dense_grid(
    field: Field, resolution: int, device: torch.device | str = "cpu", points_per_chunk: int = 65536
) -> Tensor:
    """Every cell centre of an R^3 grid, float32 (R, R, R)."""
    values = chunked(field, grid_points(resolution, 3, device), points_per_chunk)
    return values.float().view(resolution, resolution, resolution)


def coarse_to_fine(
    field: Field,
    resolution: int = 256,
    coarse: int = 64,
    threshold: float = 0.5,
    device: torch.device | str = "cpu",
    points_per_chunk: int = 65536,
) -> Tensor:
    """The cell centres of an R^3 grid, those far from the surface being exactly 0 or 1; float32 (R, R, R).

    Coarse cells whose 3^3 neighbourhood is mixed are evaluated finely, beyond the cube counting as outside.
    Then the fine cells flood: where an evaluated cell holds values of the other side than an untouched
    neighbour, that neighbour is evaluated too. A surface that no coarse cell centre saw is missed.

    Raises:
        ValueError: if ``coarse`` does not divide ``resolution``.
    """
    if resolution % coarse:
        raise ValueError(f"the coarse grid must divide the fine one, got {coarse} and {resolution}")
    if resolution == coarse:
        return dense_grid(field, resolution, device, points_per_chunk)
    inside = dense_grid(field, coarse, device, points_per_chunk) > threshold
    padded = functional.pad(inside.float(), (1,) * 6)[None, None]
    largest = functional.max_pool3d(padded, 3, 1)[0, 0]
    smallest = -functional.max_pool3d(-padded, 3, 1)[0, 0]
    queue = largest != smallest
    done = torch.zeros_like(queue)
    factor = resolution // coarse
    # (coarse cells of x, y, z, then fine cells in each): a fine cell's block is contiguous
    fine = inside.float()[..., None].repeat(1, 1, 1, factor**3)
    within = torch.stack(
        torch.meshgrid(*[torch.arange(factor, device=device)] * 3, indexing="ij"), dim=-1
    ).reshape(-1, 3)
    while queue.any():
        cells = queue.nonzero()  # (Q, 3)
        points = (cells[:, None] * factor + within + 0.5) / resolution
        values = chunked(field, points.reshape(-1, 3), points_per_chunk).float().view(len(cells), -1)
        fine[queue] = values
        done |= queue
        above, below = torch.zeros_like(queue), torch.zeros_like(queue)
        above[queue] = (values > threshold).any(dim=1)
        below[queue] = (values <= threshold).any(dim=1)
        queue = ~done & torch.where(inside, _dilated(below), _dilated(above))
    fine = fine.view(*[coarse] * 3, *[factor] * 3)
    return fine.permute(0, 3, 1, 4, 2, 5).reshape(resolution, resolution, resolution)


def _dilated(mask: Tensor) -> Tensor:
    return functional.max_pool3d(mask.float()[None, None], 3, 1, 1)[0, 0] > 0


def marching_cubes(grid: Tensor | Array, threshold: float = 0.5) -> Mesh:
    """The iso-surface of cell-centre values (R, R, R), closed at the border of the cube.

    Values are padded with zeros; scikit-image's default winds the faces inwards, ``ascent`` outwards.
    """
    from skimage.measure import marching_cubes as of_skimage

    values = np.asarray(grid.detach().cpu() if isinstance(grid, Tensor) else grid, dtype=np.float32)
    if not (values > threshold).any():
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int64), None, float(values.max()))
    vertices, faces, _, _ = of_skimage(
        np.pad(values, 1), level=threshold, gradient_direction="ascent", allow_degenerate=False
    )
    unit = (vertices - 0.5) / values.shape[0] - 0.5
    return Mesh(unit.astype(np.float32), faces.astype(np.int64), None, float(values.max()))


def refined(
    field: Field, mesh: Mesh, threshold: float = 0.5, resolution: int = 256, points_per_chunk: int = 65536
) -> Mesh:
    """Vertices moved to where the field is nearest to the threshold; may fold the mesh over.

    Pass t = 0, 1, 2 tries the 26 offsets (i, j, k) / (6 R 2^t) around where the pass began, and moves only
    if that is strictly better than all before, the unmoved vertex included.
    """
    steps = torch.tensor([-1.0, 0.0, 1.0])
    offsets = torch.cartesian_prod(steps, steps, steps)
    offsets = offsets[offsets.abs().sum(dim=1) > 0]
    vertices = torch.from_numpy(mesh.vertices)
    best = (chunked(field, vertices + 0.5, points_per_chunk).float().cpu() - threshold).abs()
    for power in range(3):
        start = vertices.clone()
        for offset in offsets:
            tried = start + offset / (6 * resolution * 2**power)
            error = (chunked(field, tried + 0.5, points_per_chunk).float().cpu() - threshold).abs()
            better = error < best
            vertices = torch.where(better[:, None], tried, vertices)
            best = torch.where(better, error, best)
    return Mesh(vertices.numpy(), mesh.faces, None, mesh.largest_value)


def gradient_normals(field: Field, points: Array, points_per_chunk: int = 65536) -> Array:
    """Unit outward normals -grad f / |grad f| at points (P, 3) of [-0.5, 0.5]^3."""
    found = []
    with torch.inference_mode(False), torch.enable_grad():
        for part in torch.from_numpy(np.array(points, np.float32)).split(points_per_chunk):
            at = part.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(field(at + 0.5).sum(), at)
            found.append(-functional.normalize(gradient, dim=1))
    normals: Array = torch.cat(found).numpy()
    return normals
