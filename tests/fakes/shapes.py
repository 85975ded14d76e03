"""Tiny twins of IM-NET's released HDF5 files, both releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.sampling import item_generator
from datamodules.shapes.solids import solid
from datamodules.shapes.stores import RESOLUTIONS, write_hdf5
from datamodules.shapes.voxels import BUDGETS_V1, FINE, pooled, sample_v2

Array = np.ndarray[Any, Any]


def sample_v1(voxels: Array, resolution: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points (n, 3) uint8 in the R^3 grid and labels (n, 1), as the first release.

    Cells within 3 of the boundary, then every second cell, then random ones.
    """
    from scipy.ndimage import maximum_filter, minimum_filter

    budget = BUDGETS_V1[resolution]
    cells = pooled(voxels, resolution)
    order = np.full(cells.shape, 2, dtype=np.int64)
    order[::2, ::2, ::2] = 1
    order[maximum_filter(cells, 7) != minimum_filter(cells, 7)] = 0
    key = order.ravel() + rng.random(cells.size)
    if len(key) <= budget:
        chosen = np.arange(len(key))
    else:
        chosen = np.argpartition(key, budget - 1)[:budget]
        chosen = chosen[np.argsort(key[chosen], kind="stable")]
    points = np.stack(np.unravel_index(chosen, cells.shape), axis=-1)
    return points.astype(np.uint8), cells.ravel()[chosen][:, None]


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


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    """``v1`` has one category in one file, ``v2`` two files of all."""
    import zoo

    model, data = config["model"], config["data"]["init_args"]
    arguments, version = model["init_args"], "v1" if "train_file" in data else "v2"
    flags: dict[str, Any] = {"data.init_args.num_workers": 0, "data.init_args.batch_size": 2}
    if version == "v1":
        fake_shapes(root / data["train_file"], "v1", 4, views=20)
    else:
        fake_shapes(root / "all_vox256_img_train.hdf5", "v2", 4)
        fake_shapes(root / "all_vox256_img_test.hdf5", "v2", 1)
    if "autoencoder" in arguments:
        small = zoo.IMAE(version=version, z_dim=8, width=4, encoder_width=4)
        flags["model.init_args.autoencoder"] = zoo.save(small, root / "autoencoder.safetensors")
        flags |= {"model.init_args.z_dim": 8, "model.init_args.width": 4}
        flags |= {"model.init_args.image_width": 8} if model["class_path"] == "zoo.IMSVR" else {}
    elif model["class_path"] == "zoo.IMAE":
        flags["data.init_args.stages"] = '[{"resolution": 16, "epochs": 1}, {"resolution": 64, "epochs": 1}]'
        flags["model.init_args.points_per_shape"] = 256
    else:
        flags["model.init_args.encoder_width"] = 8
    return {**flags, "trainer.limit_val_batches": 0}


TWINS = {"datamodules.Shapes": _twin}
WITHOUT_FILES = {"datamodules.Shapes": lambda data: data.get("source") != "hdf5"}
