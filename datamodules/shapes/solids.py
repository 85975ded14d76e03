"""Procedural chairs, tables, planes and lamps with an exact inside test at any resolution.

A solid is a union of boxes, ellipsoids and cylinders; its signed distance never changes faster than the point
moves, so most of a fine grid is decided by a coarse one. All coordinates are in [-0.5, 0.5], y is up, the
bounding box has a diagonal of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from datamodules.loading.sampling import item_generator

Array = np.ndarray[Any, Any]
Kind = Literal["box", "ellipsoid", "cylinder"]
CATEGORIES = ("chair", "table", "plane", "lamp")
_SOLIDS = 130  # first word of the key of a solid's parameters


@dataclass
class Part:
    """A primitive: ``size`` holds half extents, of a cylinder along y (radius, half height, radius)."""

    kind: Kind
    centre: Array
    size: Array
    rotation: Array = field(default_factory=lambda: np.eye(3))

    def distance(self, points: Array) -> Array:
        """Signed distance or a lower bound of its magnitude, (N,), negative inside."""
        q = points - self.centre.astype(points.dtype)
        if not np.array_equal(self.rotation, np.eye(3)):
            q = q @ self.rotation.astype(points.dtype)
        size = self.size.astype(points.dtype)
        if self.kind == "ellipsoid":
            return (np.sqrt(np.square(q / size).sum(axis=1)) - 1) * size.min()
        if self.kind == "cylinder":
            radial = np.sqrt(q[:, 0] ** 2 + q[:, 2] ** 2) - size[0]
            d = np.stack([radial, np.abs(q[:, 1]) - size[1]])
        else:
            d = (np.abs(q) - size).T
        outside: Array = np.sqrt(np.square(np.maximum(d, 0)).sum(axis=0)) + np.minimum(d.max(axis=0), 0)
        return outside

    def corners(self) -> Array:
        """Corners of the part's box, (8, 3)."""
        signs = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
        return (signs * self.size) @ self.rotation.T + self.centre


@dataclass
class Solid:
    """A union of parts."""

    category: str
    parts: list[Part]

    def distance(self, points: Array) -> Array:
        """Signed distance, negative inside, of points (N, 3) in [-0.5, 0.5]."""
        return np.minimum.reduce([part.distance(points) for part in self.parts])

    def normalised(self) -> Solid:
        """The same solid, its bounding box centred, with a diagonal of 1."""
        corners = np.concatenate([part.corners() for part in self.parts])
        low, high = corners.min(axis=0), corners.max(axis=0)
        centre, scale = (low + high) / 2, 1 / np.linalg.norm(high - low)
        return Solid(
            self.category,
            [Part(p.kind, (p.centre - centre) * scale, p.size * scale, p.rotation) for p in self.parts],
        )

    def occupancy(self, resolution: int, start: int = 16) -> Array:
        """Whether the centres of an R^3 grid lie inside, bool (R, R, R): ``[i, j, k]`` is x, y, z."""
        size = min(start, resolution)
        found = np.zeros((resolution,) * 3, dtype=bool)
        cells = np.stack(np.unravel_index(np.arange(size**3), (size,) * 3), axis=-1)
        children = np.stack(np.unravel_index(np.arange(8), (2,) * 3), axis=-1)
        while True:
            distance = self.distance(((cells + 0.5) / size - 0.5).astype(np.float32))
            near = np.abs(distance) < np.sqrt(3) / (2 * size)
            if size == resolution:
                near[:] = False
            # a cell farther from the surface than its corners is inside or outside as a whole
            factor = resolution // size
            blocks = found.reshape((size, factor) * 3).transpose(0, 2, 4, 1, 3, 5)
            blocks[tuple(cells[~near & (distance < 0)].T)] = True
            if not near.any():
                return found
            cells, size = (cells[near][:, None] * 2 + children).reshape(-1, 3), size * 2


def _centres(resolution: int) -> Array:
    axis = ((np.arange(resolution) + 0.5) / resolution - 0.5).astype(np.float32)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def solid(index: int, categories: tuple[str, ...] = CATEGORIES) -> Solid:
    """The index-th solid; categories take turns.

    Raises:
        ValueError: for an unknown category.
    """
    for name in categories:
        if name not in _MAKERS:
            raise ValueError(f"categories are {', '.join(_MAKERS)}, got {name!r}")
    category = categories[index % len(categories)]
    rng = item_generator(_SOLIDS, CATEGORIES.index(category), index // len(categories))
    return Solid(category, _MAKERS[category](rng)).normalised()


def _box(centre: tuple[float, ...], size: tuple[float, ...], kind: Kind = "box") -> Part:
    return Part(kind, np.array(centre, dtype=np.float64), np.array(size, dtype=np.float64))


def _turned(part: Part, axis: int, angle: float) -> Part:
    c, s = np.cos(angle), np.sin(angle)
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    rotation = np.eye(3)
    rotation[a, a], rotation[a, b], rotation[b, a], rotation[b, b] = c, -s, s, c
    return Part(part.kind, part.centre, part.size, rotation)


def _legs(rng: np.random.Generator, width: float, depth: float, height: float) -> list[Part]:
    thick = rng.uniform(0.045, 0.075)
    kind: Kind = "box" if rng.random() < 0.5 else "cylinder"
    return [
        _box((x * (width - thick), -height / 2, z * (depth - thick)), (thick, height / 2, thick), kind)
        for x in (-1, 1)
        for z in (-1, 1)
    ]


def _chair(rng: np.random.Generator) -> list[Part]:
    width, depth = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.55)
    height, back = rng.uniform(0.6, 0.95), rng.uniform(0.6, 1.1)
    thick = rng.uniform(0.05, 0.1)
    tilt = rng.uniform(0.0, 0.2)
    parts = [_box((0, 0, 0), (width, thick, depth)), *_legs(rng, width, depth, height)]
    plate = _box((0, back / 2, -depth - np.sin(tilt) * back / 2 + 0.06), (width, back / 2 + thick, 0.06))
    parts.append(_turned(plate, 0, -tilt))
    if rng.random() < 0.5:  # arms
        rise = rng.uniform(0.25, 0.4)
        for side in (-1, 1):
            parts.append(_box((side * (width - 0.05), rise, 0), (0.06, 0.05, depth)))
            parts.append(_box((side * (width - 0.05), rise / 2, depth - 0.08), (0.05, rise / 2, 0.05)))
    return parts


def _table(rng: np.random.Generator) -> list[Part]:
    width, depth, height = rng.uniform(0.6, 1.0), rng.uniform(0.4, 0.7), rng.uniform(0.5, 0.9)
    thick = rng.uniform(0.05, 0.09)
    if rng.random() < 0.5:
        depth = width
        parts = [_box((0, 0, 0), (width, thick, width), "cylinder")]
    else:
        parts = [_box((0, 0, 0), (width, thick, depth))]
    if rng.random() < 0.5:
        return parts + _legs(rng, width * 0.68, depth * 0.68, height)
    foot = rng.uniform(0.35, 0.55)
    return [
        *parts,
        _box((0, -height / 2, 0), (0.09, height / 2, 0.09), "cylinder"),
        _box((0, -height, 0), (foot * width, 0.05, foot * width), "cylinder"),
    ]


def _plane(rng: np.random.Generator) -> list[Part]:
    body, span, chord = rng.uniform(0.085, 0.13), rng.uniform(0.7, 1.0), rng.uniform(0.14, 0.22)
    sweep, place = rng.uniform(0.1, 0.5), rng.uniform(-0.1, 0.15)
    tail, fin = rng.uniform(0.25, 0.4), rng.uniform(0.25, 0.38)
    parts = [_box((0, 0, 0), (body, body, 1.0), "ellipsoid")]
    for side in (-1, 1):
        length = span / 2 / np.cos(sweep)
        wing = _box((side * span / 2, 0, place - np.sin(sweep) * length), (length, 0.035, chord))
        parts.append(_turned(wing, 1, side * sweep))
    parts.append(_box((0, 0.06, -0.86), (tail, 0.03, 0.1)))
    parts.append(_box((0, fin / 2, -0.86), (0.03, fin / 2, 0.12)))
    if rng.random() < 0.5:  # engines
        out = rng.uniform(0.3, 0.45) * span
        for side in (-1, 1):
            parts.append(_box((side * out, -0.09, place + 0.05), (0.06, 0.06, 0.2), "ellipsoid"))
    return parts


def _lamp(rng: np.random.Generator) -> list[Part]:
    height, shade, rise = rng.uniform(1.0, 1.6), rng.uniform(0.3, 0.5), rng.uniform(0.2, 0.35)
    foot = rng.uniform(0.2, 0.4)
    kind: Kind = "cylinder" if rng.random() < 0.5 else "ellipsoid"
    return [
        _box((0, 0, 0), (foot, 0.05, foot), "cylinder"),
        _box((0, height / 2, 0), (0.05, height / 2, 0.05), "cylinder"),
        _box((0, height, 0), (shade, rise, shade), kind),
    ]


_MAKERS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "chair": _chair,
    "table": _table,
    "plane": _plane,
    "lamp": _lamp,
}


def continuous_points(shape: Solid, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points of the unit cube, float32 (count, 3), half within 0.04 of the surface, and their values."""
    near: list[Array] = []
    wanted = count // 2
    while sum(map(len, near)) < wanted:
        tried = rng.random((8 * count, 3), dtype=np.float32)
        near.append(tried[np.abs(shape.distance(tried - np.float32(0.5))) < 0.04])
    points = np.concatenate([*near])[:wanted]
    points = np.concatenate([points, rng.random((count - wanted, 3), dtype=np.float32)])
    points = points[rng.permutation(count)]
    return points, (shape.distance(points - np.float32(0.5)) < 0).astype(np.uint8)
