"""From a 256^3 voxel grid to the released training data: pyramids, points, surfaces, views."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FINE = 256
BUDGETS_V2 = {16: 4096, 32: 4096, 64: 16384}
BUDGETS_V1 = {16: 4096, 32: 8192, 64: 32768}
VIEW_SIZE = 137


def fill_hidden(voxels: Array) -> Array:
    """Fill what neither the four sides nor the top can see: hollow scans become solid."""
    hidden = np.ones(voxels.shape, dtype=bool)
    for axis, reverse in ((0, False), (0, True), (2, False), (2, True), (1, True)):
        view = np.flip(voxels, axis) if reverse else voxels
        behind = np.logical_or.accumulate(view > 0, axis=axis)
        hidden &= np.flip(behind, axis) if reverse else behind
    return hidden | (voxels > 0)


def pooled(voxels: Array, resolution: int) -> Array:
    """Max over blocks, uint8 (R, R, R): thin parts grow, a plate of one voxel becomes a cell thick."""
    factor = voxels.shape[0] // resolution
    found: Array = voxels if voxels.dtype == bool else np.asarray(voxels > 0)
    for axis in range(3):  # one after another: the first pass is over contiguous memory
        shape = found.shape
        split = (*shape[:axis], resolution, factor, *shape[axis + 1 :])
        found = np.asarray(found.reshape(split).any(axis=axis + 1))
    return found.astype(np.uint8)


def mixed(cells: Array) -> Array:
    """Whether the 3^3 neighbourhood of a cell holds both labels, bool (R, R, R)."""
    from scipy.ndimage import maximum_filter, minimum_filter

    found: Array = maximum_filter(cells, 3) != minimum_filter(cells, 3)
    return found


@cache
def _visits(resolution: int) -> Array:
    """Interior cells in the stride-4 interleaved order (1, 5, 9, ..., 2, 6, ..., 3, ..., 4, ...), (n, 3)."""
    axis = np.concatenate([np.arange(first, resolution - 1, 4) for first in (1, 2, 3, 4)])
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def _fine_points(voxels: Array, cells: Array, labels: Array, factor: int, rng: np.random.Generator) -> Array:
    """A random fine voxel of each cell: of an occupied cell an occupied one, of an empty cell any; (n, 3)."""
    within = rng.integers(factor, size=(len(cells), 3))
    for start in range(0, len(cells), 1024):  # blocks of 16^3 voxels are large
        rows = start + np.flatnonzero(labels[start : start + 1024])
        if not len(rows):
            continue
        axis = np.arange(factor)
        x, y, z = (cells[rows] * factor).T[:, :, None]
        block = voxels[
            (x + axis)[:, :, None, None], (y + axis)[:, None, :, None], (z + axis)[:, None, None, :]
        ]
        order = rng.random((len(rows), factor**3), dtype=np.float32)
        place = np.where(block.reshape(len(rows), -1) > 0, order, -1).argmax(axis=1)
        within[rows] = np.stack(np.unravel_index(place, (factor,) * 3), axis=-1)
    return cells * factor + within


def sample_v2(
    voxels: Array, resolution: int, rng: np.random.Generator, cells: Array | None = None
) -> tuple[Array, Array]:
    """Points (n, 3) uint8 in the 256^3 grid and max-pooled labels (n, 1) uint8, as the second release.

    At 16 a point in every cell. At 32 and 64 one in each interior cell with a mixed neighbourhood, in
    interleaved order up to the budget, then random other cells. ``cells`` are the voxels pooled already.
    """
    budget, factor = BUDGETS_V2[resolution], FINE // resolution
    cells = pooled(voxels if cells is None else cells, resolution)
    if resolution == 16:
        chosen = np.argwhere(np.ones_like(cells))
    else:
        visits = _visits(resolution)
        near = visits[mixed(cells)[tuple(visits.T)]][:budget]
        unused = np.ones(cells.shape, dtype=bool)
        unused[tuple(near.T)] = False
        rest = np.flatnonzero(unused)
        fill = rng.choice(rest, budget - len(near), replace=False)
        chosen = np.concatenate([near, np.stack(np.unravel_index(fill, cells.shape), axis=-1)])
    labels = cells[tuple(chosen.T)]
    points = _fine_points(voxels, chosen, labels, factor, rng)
    return points.astype(np.uint8), labels[:, None]


def surface_points(field: Array, count: int, rng: np.random.Generator, level: float = 0.5) -> Array:
    """Area-uniform points of the iso-surface with outward normals, float32 (count, 6), in [-0.5, 0.5].

    ``field`` holds cell-centre values (R, R, R), larger inside.
    """
    from skimage.measure import marching_cubes

    padded = np.pad(np.asarray(field, np.float32), 1, constant_values=float(np.min(field)))
    vertices, faces, _, _ = marching_cubes(padded, level=level, gradient_direction="ascent")
    corners = ((vertices - 0.5) / field.shape[0] - 0.5)[faces].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    a, b = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    c = corners[face]
    points = (1 - a) * c[:, 0] + a * (1 - b) * c[:, 1] + a * b * c[:, 2]
    return np.concatenate([points, normals[face] / area[face, None]], axis=1).astype(np.float32)


def rotation(azimuth: float, elevation: float) -> Array:
    """Rows are the camera's right, up and towards it; y is up."""
    ca, sa, ce, se = np.cos(azimuth), np.sin(azimuth), np.cos(elevation), np.sin(elevation)
    toward = np.array([sa * ce, se, ca * ce])
    right = np.array([ca, 0.0, -sa])
    return np.stack([right, np.cross(toward, right), toward])


def render_view(surface: Array, azimuth: float, elevation: float, size: int = VIEW_SIZE) -> Array:
    """An orthographic grey view of surface points with normals (N, 6), uint8 (size, size), white outside.

    Points are splatted over 3 x 3 pixels into a depth buffer and shaded by their normals.
    """
    view = rotation(azimuth, elevation)
    at, normals = surface[:, :3] @ view.T, surface[:, 3:] @ view.T
    facing = normals[:, 2] > 0
    at, normals = at[facing], normals[facing]
    column = np.floor((at[:, 0] + 0.5) * size).astype(np.int64)
    row = np.floor((0.5 - at[:, 1]) * size).astype(np.int64)
    light = np.array([0.35, 0.6, 0.72])
    grey = 40 + 170 * np.clip(normals @ light, 0, 1)
    offsets = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    rows, columns = row[:, None] + offsets[:, 0], column[:, None] + offsets[:, 1]
    # a splat off its own pixel yields to points that lie there
    depth = at[:, 2:] - 0.01 * (np.abs(offsets).sum(axis=1) > 0)
    kept = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    place, depth = (rows * size + columns)[kept], depth[kept]
    shade = np.broadcast_to(grey[:, None], kept.shape)[kept]
    order = np.argsort(depth, kind="stable")
    picture = np.full(size * size, 255, dtype=np.uint8)
    picture[place[order]] = shade[order].astype(np.uint8)  # the nearest is written last
    return picture.reshape(size, size)


def render_views(surface: Array, views: int, rng: np.random.Generator) -> Array:
    """Views from around the shape, elevation between 10 and 35 degrees, uint8 (views, 137, 137)."""
    azimuths = rng.random(views) * 2 * np.pi
    elevations = np.deg2rad(rng.uniform(10, 35, views))
    return np.stack(
        [render_view(surface, float(a), float(e)) for a, e in zip(azimuths, elevations, strict=True)]
    )
