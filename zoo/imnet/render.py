"""Pictures of meshes without a display: a z-buffer rasteriser in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.imnet.extraction import Mesh

Array = np.ndarray[Any, Any]
_COLOUR = np.array([92, 132, 178.0])


def camera(azimuth: float = 35.0, elevation: float = 25.0) -> Array:
    """Rows right, up and towards the camera, of angles in degrees; y is up."""
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    toward = np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, np.cross(toward, right), toward])


def vertex_normals(mesh: Mesh) -> Array:
    """Area-weighted unit normals of the vertices, (V, 3)."""
    corners = mesh.corners()
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.zeros_like(mesh.vertices)
    for k in range(3):
        np.add.at(out, mesh.faces[:, k], normals)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def render(
    mesh: Mesh, size: int = 256, azimuth: float = 35.0, elevation: float = 25.0, supersample: int = 2
) -> Array:
    """An orthographic picture on white, uint8 (size, size, 3); an empty mesh is an empty picture."""
    side = size * supersample
    canvas = np.full((side * side, 3), 255, dtype=np.uint8)
    if not mesh.empty:
        view = camera(azimuth, elevation)
        at = mesh.vertices @ view.T
        screen = np.stack([(at[:, 0] + 0.5) * side, (0.5 - at[:, 1]) * side, at[:, 2]], axis=1)
        normals = vertex_normals(mesh) @ view.T
        _rasterise(canvas, side, screen[mesh.faces], normals[mesh.faces])
    pixels = canvas.reshape(size, supersample, size, supersample, 3).mean(axis=(1, 3))
    found: Array = pixels.astype(np.uint8)
    return found


def _rasterise(canvas: Array, side: int, corners: Array, normals: Array) -> None:
    """Draw triangles (F, 3, 3) of screen x, y and depth; the nearest is drawn last in each pixel."""
    low = np.floor(corners[:, :, :2].min(axis=1)).astype(np.int64)
    extent = np.ceil(corners[:, :, :2].max(axis=1)).astype(np.int64) - low
    box = 2 ** np.ceil(np.log2(np.maximum(extent.max(axis=1), 1))).astype(np.int64)
    found: list[tuple[Array, Array, Array]] = []
    for width in np.unique(box):  # triangles of like size together
        rows = np.flatnonzero(box == width)
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(width), indexing="ij"), axis=-1)
        step = max(1, 2_000_000 // int(width) ** 2)
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            found.append(_fragments(corners[chosen], normals[chosen], low[chosen], grid.reshape(-1, 2), side))
    place, depth, shade = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(depth, kind="stable")
    canvas[place[order]] = shade[order]


def _fragments(
    corners: Array, normals: Array, low: Array, grid: Array, side: int
) -> tuple[Array, Array, Array]:
    """Pixels that triangles cover: place on the canvas, depth, colour."""
    pixel = low[:, None] + grid  # (F, P, 2)
    a, b, c = (corners[:, None, k, :2] for k in range(3))
    centre = pixel + 0.5
    area = _cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = _cross(b - centre, c - centre) / area, _cross(c - centre, a - centre) / area
        w = 1 - u - v  # not a number where a triangle is seen edge-on: no pixel
    inside = (u >= -1e-6) & (v >= -1e-6) & (w >= -1e-6) & ((pixel >= 0) & (pixel < side)).all(axis=2)
    face, which = np.nonzero(inside)
    weight = np.stack([u[inside], v[inside], w[inside]], axis=1)[:, :, None]
    depth = (weight[:, :, 0] * corners[face, :, 2]).sum(axis=1)
    normal = (weight * normals[face]).sum(axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    light = np.clip(np.abs(normal) @ np.array([0.0, 0.0, 0.55]) + normal @ np.array([0.2, 0.45, 0.0]), 0, 1)
    colour = _COLOUR * (0.45 + 0.8 * light[:, None])
    hit = pixel[face, which]
    return hit[:, 1] * side + hit[:, 0], depth, np.clip(colour, 0, 255).astype(np.uint8)


def _cross(a: Array, b: Array) -> Array:
    found: Array = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return found
