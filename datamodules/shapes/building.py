"""Shapes made here: procedural solids, and the meshes of a folder, as arrays under the official keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.loading.sampling import item_generator
from datamodules.shapes.solids import continuous_points, solid
from datamodules.shapes.voxels import (
    FINE,
    fill_hidden,
    pooled,
    render_views,
    sample_v2,
    surface_points,
)

Array = np.ndarray[Any, Any]
MESHES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf")
SURFACE = 4096
_POINTS, _VIEWS, _SURFACE, _CONTINUOUS = 131, 132, 133, 134
_SMOOTH = 64  # grid whose iso-surface stands for the surface of a solid


def solids_arrays(
    index: Sequence[int],
    categories: tuple[str, ...],
    resolutions: Iterable[int] = (16, 32, 64),
    views: int = 0,
    continuous: int = 0,
    surfaces: bool = False,
    fine: int = 64,
    input_size: int = 64,
) -> dict[str, Array]:
    """Solids under the official keys; ``fine`` (N, R, R, R) and ``surface`` (N, 4096, 6) for tests.

    With ``continuous`` points nothing is pooled: ``voxels`` (N, S, S, S, 1) are the centres of ``input_size``
    S inside the solid, ``points`` float32 (N, P, 3) of the unit cube with ``values`` (N, P).
    """
    rows: list[dict[str, Array]] = []
    for i in index:
        shape = solid(i, categories)
        row: dict[str, Array] = {}
        if continuous:
            row["voxels"] = shape.occupancy(input_size)
            row["points"], row["values"] = continuous_points(
                shape, continuous, item_generator(_CONTINUOUS, i)
            )
        else:
            row |= released_row(shape.occupancy(FINE), resolutions, item_generator(_POINTS, i))
        if surfaces:
            # exact centres where nothing was pooled; else what the labels of the training say
            row["fine"] = shape.occupancy(fine) if continuous or fine > 64 else row["voxels"]
        if surfaces or views:
            row["surface"] = _solid_surface(shape, i, 4 * SURFACE if views else SURFACE)
        if views:
            row["pixels"] = render_views(row["surface"], views, item_generator(_VIEWS, i))
            row["surface"] = row["surface"][:SURFACE]
        if not surfaces:
            row.pop("surface", None)
        row["voxels"] = row["voxels"][..., None].astype(np.uint8)
        rows.append(row)
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def released_row(voxels: Array, resolutions: Iterable[int], rng: np.random.Generator) -> dict[str, Array]:
    """One shape's 256^3 voxels as ``voxels``, ``points_R`` and ``values_R`` of the second release."""
    row = {"voxels": pooled(voxels, 64)}
    for r in sorted(resolutions, reverse=True):
        row[f"points_{r}"], row[f"values_{r}"] = sample_v2(voxels, r, rng, row["voxels"])
    return row


def _solid_surface(shape: Any, index: int, count: int) -> Array:
    axis = ((np.arange(_SMOOTH) + 0.5) / _SMOOTH - 0.5).astype(np.float32)
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    field = -shape.distance(centres).reshape(_SMOOTH, _SMOOTH, _SMOOTH)
    return surface_points(field, count, item_generator(_SURFACE, index), level=0.0)


def mesh_paths(folder: Path) -> list[Path]:
    """Meshes of a folder, to any depth, sorted.

    Raises:
        FileNotFoundError: for no folder or none in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: set data.init_args.root to a folder of meshes")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MESHES)
    if not found:
        raise FileNotFoundError(f"no meshes in {folder}: expected {', '.join(MESHES)}")
    return found


def mesh_voxels(path: Path) -> Array:
    """A mesh as 256^3 voxels, bool: its bounding box centred with a diagonal of 1, its inside filled.

    Raises:
        ValueError: for a file that holds no surface.
    """
    import trimesh

    try:
        mesh: Any = trimesh.load(path, force="mesh", process=True)
        if not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
            raise ValueError("no triangles")
        low, high = mesh.bounds
        mesh.apply_translation(-(low + high) / 2)
        mesh.apply_scale(1 / np.linalg.norm(high - low))
        shell = mesh.voxelized(pitch=1 / FINE)
        centres = shell.points
    except Exception as error:  # trimesh raises whatever its many readers do
        raise ValueError(f"{path}: {' '.join(str(error).split())[:100] or type(error).__name__}") from None
    cells = np.clip(np.floor((centres + 0.5) * FINE).astype(np.int64), 0, FINE - 1)
    voxels = np.zeros((FINE,) * 3, dtype=bool)
    voxels[tuple(cells.T)] = True
    return _filled(voxels)


def _filled(shell: Array) -> Array:
    """A closed shell with its inside; of one with holes, what neither sides nor top can see."""
    from scipy.ndimage import binary_fill_holes

    low, high = np.argwhere(shell).min(axis=0), np.argwhere(shell).max(axis=0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inside = binary_fill_holes(shell[box])
    if inside.sum() == shell[box].sum():
        inside = fill_hidden(shell[box])
    shell[box] = inside
    return shell


def mesh_arrays(paths: Sequence[Path], views: int = 0) -> tuple[dict[str, Array], list[Path]]:
    """Meshes under the official keys with ``fine`` and ``surface``, and the paths of those that are in.

    Meshes that cannot be read are left out with a warning that counts them.

    Raises:
        ValueError: if none can be read.
    """
    rows: list[dict[str, Array]] = []
    kept: list[Path] = []
    broken: list[str] = []
    for path in paths:
        try:
            voxels = mesh_voxels(path)
        except ValueError as error:
            broken.append(str(error))
            continue
        number = len(kept)
        row = released_row(voxels, (16, 32, 64), item_generator(_POINTS, number))
        row["fine"] = row["voxels"]
        surface = surface_points(row["voxels"], 4 * SURFACE, item_generator(_SURFACE, number))
        row["surface"] = surface[:SURFACE]
        if views:
            row["pixels"] = render_views(surface, views, item_generator(_VIEWS, number))
        row["voxels"] = row["voxels"][..., None]
        rows.append(row)
        kept.append(path)
    if broken:
        rank_zero_warn(
            f"{len(broken)} of {len(paths)} meshes cannot be read and are skipped, first {broken[0]}"
        )
    if not rows:
        raise ValueError(f"none of the {len(paths)} meshes can be read, first {broken[0]}")
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}, kept
