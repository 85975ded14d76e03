"""How good shapes are: distances of surfaces, sets of shapes, smoothness of meshes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.imnet.extraction import Mesh

Array = np.ndarray[Any, Any]


def iou(predicted: Tensor, truth: Tensor, threshold: float = 0.5) -> Tensor:
    """|A and B| / |A or B| of each shape, (B,); two empty shapes have 1."""
    a, b = (predicted > threshold).flatten(1), (truth > threshold).flatten(1)
    union = (a | b).sum(dim=1)
    return torch.where(union > 0, (a & b).sum(dim=1) / union.clamp(min=1), torch.ones_like(union)).float()


def sample_surface(mesh: Mesh, count: int, rng: np.random.Generator) -> Array:
    """Area-uniform points with unit outward normals, float32 (count, 6).

    Raises:
        ValueError: for an empty mesh.
    """
    if mesh.empty:
        raise ValueError("an empty mesh has no surface to sample")
    corners = mesh.corners().astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    a, b = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    c = corners[face]
    points = (1 - a) * c[:, 0] + a * (1 - b) * c[:, 1] + a * b * c[:, 2]
    return np.concatenate([points, normals[face] / area[face, None]], axis=1).astype(np.float32)


def chamfer_and_normals(a: Array, b: Array) -> tuple[float, float]:
    """Symmetric Chamfer distance of squared lengths, and normal consistency, of surfaces (N, 6), (M, 6).

    ``mean_x min_y |x - y|^2 + mean_y min_x |x - y|^2``; the mean of |n_x . n_nearest| both ways, averaged.
    """
    from scipy.spatial import cKDTree

    to_b, nearest_b = cKDTree(b[:, :3]).query(a[:, :3])
    to_a, nearest_a = cKDTree(a[:, :3]).query(b[:, :3])
    chamfer = float(np.square(to_b).mean() + np.square(to_a).mean())
    one = np.abs((a[:, 3:] * b[nearest_b, 3:]).sum(axis=1)).mean()
    other = np.abs((b[:, 3:] * a[nearest_a, 3:]).sum(axis=1)).mean()
    return chamfer, float((one + other) / 2)


def chamfer(a: Array, b: Array) -> float:
    """Of :func:`chamfer_and_normals`, the distance."""
    return chamfer_and_normals(a, b)[0]


def coverage_and_mmd(distances: Array) -> tuple[float, float]:
    """COV and MMD of distances (generated, reference).

    COV is the share of reference shapes that are the nearest of at least one generated shape; MMD the mean
    over reference shapes of the distance to the nearest generated one.
    """
    covered = np.unique(distances.argmin(axis=1))
    return len(covered) / distances.shape[1], float(distances.min(axis=0).mean())


def _dodecahedron() -> Array:
    golden = (1 + 5**0.5) / 2
    cube = [(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]
    rest = [(0, i / golden, j * golden) for i in (-1, 1) for j in (-1, 1)]
    vertices = np.array(cube + rest + [(b, c, a) for a, b, c in rest] + [(c, a, b) for a, b, c in rest])
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True)


def silhouettes(surface: Array, size: int = 64) -> Array:
    """Shadows of surface points (N, 6) from the 10 directions of a dodecahedron, bool (10, size, size).

    Opposite directions have mirrored shadows, so 10 of the 20 are kept. Points are splatted over 3 x 3.
    """
    from scipy.ndimage import binary_fill_holes

    directions = _dodecahedron()
    kept = [n for n, d in enumerate(directions) if tuple(np.sign(d[np.abs(d) > 1e-9])[:1]) == (1.0,)]
    out = np.zeros((len(kept), size, size), dtype=bool)
    for n, direction in enumerate(directions[kept]):
        up = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
        right = np.cross(up, direction)
        right /= np.linalg.norm(right)
        flat = surface[:, :3] @ np.stack([right, np.cross(direction, right)]).T
        place = np.clip(((flat + 0.5) * size).astype(np.int64), 1, size - 2)
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                out[n, place[:, 0] + i, place[:, 1] + j] = True
        out[n] = binary_fill_holes(out[n]) if out[n].mean() > 0.9 else out[n]
    return out


def silhouette_distance(a: Array, b: Array) -> float:
    """Mean 1 - IoU of the ten aligned silhouettes of two surfaces; **not** the light-field descriptor.

    LFD is an external C program (Zernike and Fourier coefficients, minimised over rotations): its numbers
    and these cannot be compared.
    """
    x, y = silhouettes(a), silhouettes(b)
    union = (x | y).sum(axis=(1, 2))
    return float(1 - ((x & y).sum(axis=(1, 2)) / np.maximum(union, 1)).mean())


def components(mesh: Mesh) -> int:
    """Connected components of a mesh."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if mesh.empty:
        return 0
    edges = np.concatenate([mesh.faces[:, :2], mesh.faces[:, 1:]])
    size = len(mesh.vertices)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    return len(np.unique(labels[mesh.faces[:, 0]]))


def mean_dihedral_angle(mesh: Mesh) -> float:
    """Mean angle in degrees between the normals of triangles that share an edge: 0 is flat."""
    corners = mesh.corners().astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    faces, normals = mesh.faces[length > 1e-12], normals[length > 1e-12]
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    owner = np.tile(np.arange(len(faces)), 3)
    code = edges[:, 0] * len(mesh.vertices) + edges[:, 1]
    order = np.argsort(code, kind="stable")
    pairs = np.flatnonzero(np.diff(code[order]) == 0)
    if not len(pairs):
        return 0.0
    cosine = (normals[owner[order[pairs]]] * normals[owner[order[pairs + 1]]]).sum(axis=1)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())
