"""Shapes made here: procedural solids, and the meshes of a folder, as arrays under the official keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from tqdm import tqdm

from datamodules.loading.files import one_line, written_whole
from datamodules.loading.meshes import READERS, read_mesh
from datamodules.loading.sampling import item_generator
from datamodules.shapes.solids import continuous_points, solid
from datamodules.shapes.stores import write_rows
from datamodules.shapes.surfaces import Solid, solid_voxels
from datamodules.shapes.voxels import (
    FINE,
    pooled,
    render_views,
    sample_v2,
    surface_points,
)

Array = np.ndarray[Any, Any]
MESHES = tuple(READERS)
_RULES = 2  # of voxels; before, symmetric meshes lay half a cell off
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
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MESHES and p.is_file())
    if not found:
        raise FileNotFoundError(f"no meshes in {folder}: expected {', '.join(MESHES)}")
    return found


def mesh_solid(path: Path) -> Solid:
    """A mesh as 256^3 voxels: its bounding box centred with a diagonal of 1, its inside filled.

    Raises:
        OSError, ValueError: for a file that cannot be read, or holds no shape.
    """
    vertices, faces = read_mesh(path)
    try:
        return solid_voxels(vertices, faces)
    except (ValueError, MemoryError) as error:
        raise ValueError(f"{path} is no shape: {one_line(error)}") from None


def mesh_voxels(path: Path) -> Array:
    """The voxels of :func:`mesh_solid`, bool (256, 256, 256)."""
    return mesh_solid(path).voxels


def mesh_row(voxels: Array, number: int, views: int) -> dict[str, Array]:
    """One shape's voxels under the official keys, with ``fine`` and ``surface``; a function of its number."""
    row = released_row(voxels, (16, 32, 64), item_generator(_POINTS, number))
    row["fine"] = row["voxels"]
    surface = surface_points(row["voxels"], 4 * SURFACE, item_generator(_SURFACE, number))
    row["surface"] = surface[:SURFACE]
    if views:
        row["pixels"] = render_views(surface, views, item_generator(_VIEWS, number))
    row["voxels"] = row["voxels"][..., None]
    return row


def build_meshes(paths: Sequence[Path], target: Path, names: Path, stamp: str, views: int = 0) -> None:
    """Voxelise meshes into an official file, row by row with a progress bar, and a list of their names.

    Meshes that cannot be read are left out with a warning that counts them; another one counts those with
    parts that enclose nothing.

    Args:
        paths: of the meshes.
        target: the HDF5 file, in place only when whole.
        names: the list, a path relative to its folder a line.
        stamp: what the file remembers of its meshes, see :func:`mesh_stamp`.
        views: of each shape.

    Raises:
        ValueError: if none can be read.
    """
    broken: list[str] = []
    hollow: list[tuple[Path, Solid]] = []
    kept: list[Path] = []

    def rows() -> Iterator[dict[str, Array]]:
        for path in tqdm(paths, desc=f"meshes of {names.parent} as voxels, once", unit=" meshes"):
            try:
                found = mesh_solid(path)
            except (OSError, ValueError) as error:
                broken.append(str(error))
                continue
            if found.open_parts:
                hollow.append((path, found))
            kept.append(path)
            yield mesh_row(found.voxels, len(kept) - 1, views)
        if not kept:
            raise ValueError(f"none of the {len(paths)} meshes can be read, first {broken[0]}")
        with written_whole(names) as temporary:
            temporary.write_text("".join(f"{p.relative_to(names.parent)}\n" for p in kept))

    write_rows(target, rows(), meshes=stamp)
    if broken:
        rank_zero_warn(
            f"{len(broken)} of {len(paths)} meshes cannot be read and are skipped, first {broken[0]}"
        )
    if hollow:
        path, first = hollow[0]
        rank_zero_warn(
            f"{len(hollow)} of {len(paths)} meshes have parts that are not closed, first {path}: "
            f"{first.open_parts} of {first.parts}; of these, what neither sides nor top can see is filled, "
            "closed parts are solid"
        )


def mesh_stamp(paths: Sequence[Path], folder: Path) -> str:
    """Which meshes a file is made of, and by which rules."""
    listed = "".join(f"{p.relative_to(folder)} {p.stat().st_size}\n" for p in paths)
    return f"{_RULES} {hashlib.sha256(listed.encode(errors='surrogateescape')).hexdigest()}"
