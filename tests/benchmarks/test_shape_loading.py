"""How shapes are read out of a file of the official size, and how long a mesh takes to become voxels.

    pytest tests/benchmarks/test_shape_loading.py -s [--manifest docs/results/imnet_loading.json]

35,019 rows of zeros in h5py's automatic chunks at gzip 9, as the release has them: zeros compress to little,
but decompress to all. Seconds are of the processor. No test here fails for being slow.
"""

from __future__ import annotations

import itertools
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import trimesh

from datamodules.loading.hdf5 import bytes_per_row, dataset, open_hdf5
from datamodules.shapes.building import mesh_row, mesh_solid
from datamodules.shapes.items import ShapeItems
from datamodules.shapes.stores import HDF5Store

SHAPES, BATCH, BATCHES = 35_019, 32, 10
STAGES = [{"resolution": 64, "epochs": 1}]
Record = Callable[[str, float], None]


def official_file(path: Path, shapes: int) -> Path:
    """The second release's layout without pixels; each chunk is the same compressed one."""
    rows = {"voxels": (64, 64, 64, 1)}
    for r, points in ((16, 4096), (32, 4096), (64, 16384)):
        rows |= {f"points_{r}": (points, 3), f"values_{r}": (points, 1)}
    with h5py.File(path, "w") as file:
        for key, row in rows.items():
            made = file.create_dataset(key, (shapes, *row), "u1", compression="gzip", compression_opts=9)
            chunk = zlib.compress(bytes(int(np.prod(made.chunks))), 9)
            starts = [range(0, n, step) for n, step in zip(made.shape, made.chunks, strict=True)]
            for at in itertools.product(*starts):
                made.id.write_direct_chunk(at, chunk)
    return path


def _read() -> int:
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"])


def _measured(record: Record, name: str, work: Callable[[], object], shapes: int = 1) -> None:
    """Seconds of the processor and megabytes read, for each of so many shapes."""
    start, read = time.process_time(), _read()
    work()
    record(f"{name}/seconds", (time.process_time() - start) / shapes)
    record(f"{name}/megabytes_read", (_read() - read) / shapes / 1e6)
    record(f"{name}/peak_gigabytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)


def test_rows_of_an_official_file(tmp_path: Path, request: pytest.FixtureRequest, record: Record) -> None:
    shapes = 2200 if request.config.getoption("--quick") else SHAPES
    path = official_file(tmp_path / "all_vox256_img_train.hdf5", shapes)
    with open_hdf5(path) as file:
        record("row/decompressed_megabytes", bytes_per_row(dataset(file, path, "voxels")) / 1e6)
    store = HDF5Store(path)
    items = ShapeItems(store, range(shapes), STAGES, 64, wanted={"voxels", "points"})
    _measured(record, "before", lambda: items.__getitems__([(0, 17), (0, 1234)]), 2)
    _measured(record, "codes", lambda: sum(len(v) for v in items.voxels_in_order(16)))
    keys = ["voxels", *(f"{k}_{r}" for r in (16, 32, 64) for k in ("points", "values"))]
    _measured(record, "copies", lambda: store.arrange(keys))
    record("copies/megabytes", sum(p.stat().st_size for p in store.copies.iterdir()) / 1e6)
    store = HDF5Store(path)
    items = ShapeItems(store, range(shapes), STAGES, 64, wanted={"voxels", "points"})
    rows = np.random.default_rng(0).permutation(shapes)[: BATCHES * BATCH].reshape(BATCHES, BATCH)
    _measured(
        record, "after", lambda: [items.__getitems__([(0, int(i)) for i in row]) for row in rows], rows.size
    )


def test_meshes_as_voxels(tmp_path: Path, record: Record) -> None:
    made = {
        "ball.ply": trimesh.creation.icosphere(3),
        "box.off": trimesh.creation.box((2, 1, 4)),
        "torus.stl": trimesh.creation.torus(2, 0.5),
        "cylinder.obj": trimesh.creation.cylinder(1, 3),
        "capsule.glb": trimesh.creation.capsule(2, 1),
    }
    for name, mesh in made.items():
        mesh.export(tmp_path / name)
    start = time.process_time()
    voxels = [mesh_solid(tmp_path / name).voxels for name in made]
    record("mesh/voxels_seconds", (time.process_time() - start) / len(made))
    start = time.process_time()
    for number, each in enumerate(voxels):
        mesh_row(each, number, 24)
    record("mesh/points_and_views_seconds", (time.process_time() - start) / len(made))
    start = time.process_time()
    for name in made:
        mesh = trimesh.load(tmp_path / name, force="mesh")
        mesh.apply_scale(1 / np.linalg.norm(mesh.extents))
        mesh.voxelized(pitch=1 / 256)
    record("mesh/trimesh_seconds", (time.process_time() - start) / len(made))
