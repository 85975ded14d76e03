"""From the triangles of a mesh to solid voxels: the cells that its surface meets, and what it encloses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.shapes.voxels import FINE, fill_hidden

Array = np.ndarray[Any, Any]
PIECES_LIMIT = 2 * 10**8
"""Triangles that a surface is cut into at most: a minute; a surface that fits the cube has some millions."""
_LONGEST = 0.5 / FINE  # edge of a piece
_BLOCK = 2**15  # pieces cut at once, which stay in the cache
_MERGED = 2**20  # vertices closer than one of so many parts of the diagonal are one


@dataclass
class Solid:
    """A mesh in voxels.

    Attributes:
        voxels: bool (256, 256, 256).
        parts: connected parts of the surface.
        open_parts: those that enclose nothing.
    """

    voxels: Array
    parts: int
    open_parts: int


def normalised(vertices: Array, faces: Array) -> Array:
    """Corners (F, 3, 3) with the bounding box centred and of diagonal 1.

    Raises:
        ValueError: for triangles without an extent, or an area.
    """
    used = vertices[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    with np.errstate(over="ignore"):
        extent = high - low
        largest = np.abs(used).max()
        if not extent.max() > 1e-9 * largest or not np.isfinite(extent).all():
            raise ValueError(
                f"its vertices span {extent.max():.3g} at a distance up to {largest:.3g}: no shape"
            )
        diagonal = extent.max() * np.linalg.norm(extent / extent.max())
        corners: Array = (vertices[faces] - (low / 2 + high / 2)) / diagonal
    if not np.isfinite(corners).all():
        raise ValueError(f"its vertices reach to {largest:.3g}: scale it")
    if not _areas(corners).sum() > 1e-9:
        raise ValueError("its triangles have no area")
    return corners


def _areas(corners: Array) -> Array:
    sides = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    found: Array = np.linalg.norm(sides, axis=1) / 2
    return found


def surface_cells(corners: Array, owner: Array) -> list[Array]:
    """Cells (n, 3) of the 256^3 grid that the triangles of each owner 0, 1, ... meet.

    As ``trimesh.voxel``: every edge above half a cell is halved until none is left, and the vertices' cells
    count; but a cell is that of the vertex, [i, i + 1) / 256 - 0.5, not that of the nearest multiple of the
    pitch, which lies half a cell off. Triangles are cut apart from each other, which gives the same vertices.

    Args:
        corners: (F, 3, 3) in [-0.5, 0.5].
        owner: (F,).

    Raises:
        ValueError: for far more surface than a shape has.
    """
    lengths = np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=2)
    pieces = 2 * (_areas(corners).sum() / _LONGEST**2 + lengths.sum() / _LONGEST) + len(corners)
    if pieces > PIECES_LIMIT:
        raise ValueError(
            f"its surface would be cut into {pieces:.1g} pieces, the limit is {PIECES_LIMIT:.1g}"
        )
    first = owner.astype(np.int64) * FINE**3
    waiting = [[_Corners(x, _cells(x) + first) for x in corners.transpose(1, 2, 0)]]
    found: list[Array] = [np.zeros(0, dtype=np.int64)]
    while waiting:
        a, b, c = waiting.pop()
        if len(a.key) > _BLOCK:
            half = len(a.key) // 2
            waiting += [[x[:half] for x in (a, b, c)], [x[half:] for x in (a, b, c)]]
            continue
        long = np.stack([_far(a, b), _far(b, c), _far(c, a)])
        # a triangle within a cell meets no other
        cut = long.any(axis=0) & ((a.key != b.key) | (a.key != c.key))
        found += [x.key[~cut] for x in (a, b, c)]
        if cut.any():
            waiting.append(_halved(a[cut], b[cut], c[cut], long[:, cut]))
        if len(found) > 1000:  # some 10^7 keys, most of them many times
            found = [np.unique(np.concatenate(found))]
    keys = np.unique(np.concatenate(found))
    places = np.stack(np.unravel_index(keys % FINE**3, (FINE,) * 3), axis=1)
    return np.split(places, np.searchsorted(keys, FINE**3 * np.arange(1, int(owner.max()) + 1)))


@dataclass
class _Corners:
    """One corner of each of n triangles: where (3, n), and the number of its cell, with that of its owner."""

    at: Array
    key: Array

    def __getitem__(self, chosen: Any) -> _Corners:
        return _Corners(self.at[:, chosen], self.key[chosen])


def _cells(at: Array) -> Array:
    x, y, z = np.clip(np.floor((at + 0.5) * FINE), 0, FINE - 1).astype(np.int64)
    found: Array = (x * FINE + y) * FINE + z
    return found


def _squares(a: Array, b: Array) -> Array:
    x, y, z = a - b
    found: Array = x * x + y * y + z * z
    return found


def _far(a: _Corners, b: _Corners) -> Array:
    found: Array = np.sqrt(_squares(a.at, b.at)) > _LONGEST
    return found


def _middle(a: _Corners, b: _Corners) -> _Corners:
    at = (a.at + b.at) / 2
    return _Corners(at, _cells(at) + (a.key - a.key % FINE**3))


def _where(chosen: Array, a: _Corners, b: _Corners) -> _Corners:
    return _Corners(np.where(chosen, a.at, b.at), np.where(chosen, a.key, b.key))


def _halved(a: _Corners, b: _Corners, c: _Corners, long: Array) -> list[_Corners]:
    """Triangles with each long edge (ab, bc, ca) cut at its middle: into 2, 3 or 4."""
    pieces: list[tuple[_Corners, _Corners, _Corners]] = []
    count = long.sum(axis=0)
    if (three := count == 3).any():
        d, e, f = (x[three] for x in (a, b, c))
        p, q, r = _middle(d, e), _middle(e, f), _middle(f, d)
        pieces += [(d, p, r), (p, e, q), (r, q, f), (p, q, r)]
    for turn in range(3):  # so that ab is the one long edge, or ca the one short edge
        d, e, f = ((a, b, c) * 2)[turn : turn + 3]
        if (one := (count == 1) & long[turn]).any():
            g, h, i = d[one], e[one], f[one]
            p = _middle(g, h)
            pieces += [(g, p, i), (p, h, i)]
        if (two := (count == 2) & ~long[turn - 1]).any():
            g, h, i = d[two], e[two], f[two]
            p, q = _middle(g, h), _middle(h, i)
            near = _squares(g.at, q.at) <= _squares(p.at, i.at)  # along the shorter diagonal
            pieces += [(p, h, q), (g, p, _where(near, q, i)), (_where(near, g, p), q, i)]
    return [
        _Corners(np.concatenate([x.at for x in each], axis=1), np.concatenate([x.key for x in each]))
        for each in zip(*pieces, strict=True)
    ]


def solid_voxels(vertices: Array, faces: Array) -> Solid:
    """A mesh as voxels of the cube, each closed part filled.

    A part of the mesh is closed where each of its edges has faces on both sides. What is left may be closed
    all the same, of faces that only touch: there a part is what hangs together in voxels. Of parts that
    enclose nothing what neither the four sides nor the top can see is filled.

    Raises:
        ValueError: for a mesh that is no shape.
    """
    corners = normalised(vertices, faces)
    part, closed = _parts(corners)
    number = np.cumsum(closed) - 1
    owner = np.where(closed[part], number[part], closed.sum())  # all others are one
    cells = surface_cells(corners, owner)
    voxels = np.zeros((FINE,) * 3, dtype=bool)
    for each in cells[: int(closed.sum())]:
        _add(voxels, each, _enclosed)
    if closed.all():
        return Solid(voxels, len(closed), 0)
    loose = np.zeros_like(voxels)
    parts = _connected(cells[-1])
    open_cells = []
    for each in parts:
        if not _add(loose, each, _enclosed):
            open_cells.append(each)
    voxels |= loose
    if open_cells:
        _add(voxels, np.concatenate(open_cells), fill_hidden)
    return Solid(voxels, int(closed.sum()) + len(parts), len(open_cells))


def _parts(corners: Array) -> tuple[Array, Array]:
    """The connected part (F,) of each triangle, and whether each part is closed."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    grid = np.rint((corners.reshape(-1, 3) + 0.5) * _MERGED).astype(np.int64)
    _, vertex = np.unique((grid[:, 0] << 42) | (grid[:, 1] << 21) | grid[:, 2], return_inverse=True)
    faces = vertex.reshape(-1, 3)
    ends = np.stack([faces, faces[:, [1, 2, 0]]], axis=-1).reshape(-1, 2)
    size = int(faces.max()) + 1
    graph = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    names, part = np.unique(label[faces[:, 0]], return_inverse=True)
    ends = ends[ends[:, 0] != ends[:, 1]]  # of triangles that merging made flat
    low, high = ends.min(axis=1), ends.max(axis=1)
    edges, shared = np.unique(low * size + high, return_counts=True)
    closed = np.ones(len(names), dtype=bool)
    closed[np.searchsorted(names, label[edges[shared % 2 == 1] // size])] = False
    return part, closed


def _add(voxels: Array, cells: Array, fill: Any) -> bool:
    """Put the cells with what ``fill`` makes of them into the voxels; whether it added any."""
    low, high = cells.min(axis=0), cells.max(axis=0) + 1
    shell = np.zeros(high - low, dtype=bool)
    shell[tuple((cells - low).T)] = True
    filled = fill(shell)
    voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] |= filled
    return bool(filled.sum() > len(cells))


def _enclosed(shell: Array) -> Array:
    """The shell with all that cannot be reached from outside."""
    from scipy.ndimage import label

    free, _ = label(np.pad(~shell, 1, constant_values=True))
    found: Array = (free != free[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return found


def _connected(cells: Array) -> list[Array]:
    """Cells (n, 3) of each part that hangs together, corners included."""
    from scipy.ndimage import label

    low = cells.min(axis=0)
    grid = np.zeros(cells.max(axis=0) - low + 1, dtype=bool)
    grid[tuple((cells - low).T)] = True
    names, count = label(grid, np.ones((3, 3, 3)))
    mine = names[tuple((cells - low).T)]
    order = np.argsort(mine, kind="stable")
    return np.split(cells[order], np.searchsorted(mine[order], np.arange(2, count + 1)))
