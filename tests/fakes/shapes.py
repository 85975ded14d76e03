"""Tiny twins of IM-NET's released HDF5 files, both releases."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datamodules.loading.sampling import item_generator
from datamodules.shapes.solids import solid
from datamodules.shapes.stores import RESOLUTIONS, write_hdf5
from datamodules.shapes.voxels import FINE, sample_v1, sample_v2


def fake_shapes(path: Path, release: str = "v2", shapes: int = 5, views: int = 24) -> Path:
    """A file of ``shapes`` solids in the layout of a release."""
    rows = []
    for i in range(shapes):
        voxels, rng = solid(i).occupancy(FINE), item_generator(1, i)
        sample = sample_v1 if release == "v1" else sample_v2
        row = {"voxels": voxels[2::4, 2::4, 2::4, None].astype(np.uint8)}
        for r in RESOLUTIONS:
            row[f"points_{r}"], row[f"values_{r}"] = sample(voxels, r, rng)
        row["pixels"] = rng.integers(256, size=(views, 137, 137)).astype(np.uint8)
        rows.append(row)
    return write_hdf5(path, {k: np.stack([row[k] for row in rows]) for k in rows[0]})
