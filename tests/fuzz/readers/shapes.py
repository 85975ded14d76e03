"""Readers of shapes: official HDF5 files, codes, names, meshes, views, weights of the first release."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fuzz.forked import Reader
from PIL import Image

from datamodules import Shapes
from datamodules.loading.meshes import read_mesh
from datamodules.shapes.building import mesh_solid
from datamodules.shapes.stores import RESOLUTIONS, HDF5Store, read_codes
from datamodules.shapes.views import read_view
from zoo.imnet import official

_CORNERS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
_QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
_TRIANGLES = [t for a, b, c, d in _QUADS for t in ((a, b, c), (a, c, d))]


def _hdf5(folder: Path) -> Path:
    """Two shapes in the official layout; some arrays with checksums, some without."""
    path, rng = folder / "all_vox256_img_train.hdf5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        voxels = np.zeros((2, 64, 64, 64, 1), np.uint8)
        voxels[:, 20:40, 20:40, 20:40] = 1
        file.create_dataset("voxels", data=voxels, compression="gzip", compression_opts=9)
        for r in RESOLUTIONS:
            points = rng.integers(256, size=(2, 16, 3)).astype(np.uint8)
            file.create_dataset(f"points_{r}", data=points, compression="gzip", shuffle=r == 32)
            file.create_dataset(f"values_{r}", data=points[..., :1] % 2, fletcher32=r == 64)
        file.create_dataset("pixels", data=np.full((2, 2, 137, 137), 255, np.uint8), compression="gzip")
    return path


def _read_hdf5(path: Path) -> Any:
    store = HDF5Store(path)
    keys = [f"{k}_{r}" for r in RESOLUTIONS for k in ("points", "values")]
    found = {key: store.rows(key, range(store.size)) for key in (*keys, "voxels")}
    if store.shape("pixels"):
        found["pixels"] = store.row_parts("pixels", range(store.size), [0] * store.size)
    return found, [values.sum() for _, values in store.slabs("voxels", store.size)]


def _batch(path: Path) -> Any:
    """Through the data module: copies of rows, training and evaluation."""
    data = Shapes(
        source="hdf5",
        root=str(path.parent),
        test_file=None,
        views=1,
        stages=[{"resolution": 16, "epochs": 1}],
    )
    data.setup("fit")
    return data.train_set.__getitems__([(0, 0)]), data.val_set.__getitems__([0])


def _codes(folder: Path) -> Path:
    with h5py.File(folder / "codes.hdf5", "w") as file:
        file["zs"] = np.linspace(0, 1, 32, dtype=np.float32).reshape(4, 8)
    return folder / "codes.hdf5"


def _names(folder: Path) -> Path:
    _hdf5(folder)
    (folder / "all_vox256_img_train.txt").write_text("03001627/a\n04379243/b\n")
    return folder / "all_vox256_img_train.txt"


def _read_names(path: Path) -> Any:
    data = Shapes(source="hdf5", root=str(path.parent), test_file=None)
    data.setup("test")
    return data.test_set.__getitems__([0])["voxels"]


def _mesh(name: str, content: Callable[[], bytes]) -> Reader:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    return Reader(f"mesh {name}", write, _read_mesh)


def _read_mesh(path: Path) -> Any:
    vertices, faces = read_mesh(path)
    if path.name != "binary.stl":  # the way to voxels is the same of all, and takes half a second
        return vertices[faces]
    return mesh_solid(path).voxels


def _obj() -> bytes:
    vertices = "".join(f"v {x} {y} {z}\n" for x, y, z in _CORNERS)
    return (
        f"# box\no a\n{vertices}" + "".join(f"f {' '.join(f'{i - 8}//1' for i in q)}\n" for q in _QUADS)
    ).encode()


def _off() -> bytes:
    rows = [" ".join(map(str, v)) for v in _CORNERS] + [f"4 {' '.join(map(str, q))}" for q in _QUADS]
    return "\n".join(["OFF", "8 6 0", *rows, ""]).encode()


def _ply_header(form: str) -> bytes:
    return (
        f"ply\nformat {form} 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 6\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode()


def _ply_ascii() -> bytes:
    return _ply_header("ascii") + b"\n".join(_off().splitlines()[2:]) + b"\n"


def _ply_binary() -> bytes:
    faces = b"".join(b"\4" + np.array(q, "<i4").tobytes() for q in _QUADS)
    return _ply_header("binary_little_endian") + np.array(_CORNERS, "<f4").tobytes() + faces


def _stl_binary() -> bytes:
    rows = np.zeros(12, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
    rows["corners"] = np.array(_CORNERS)[np.array(_TRIANGLES)]
    return bytes(80) + np.uint32(12).tobytes() + rows.tobytes()


def _stl_ascii() -> bytes:
    facets = "".join(
        "facet normal 0 0 0\nouter loop\n"
        + "".join(f"vertex {' '.join(map(str, _CORNERS[i]))}\n" for i in t)
        + "endloop\nendfacet\n"
        for t in _TRIANGLES
    )
    return f"solid box\n{facets}endsolid\n".encode()


def _gltf() -> tuple[str, bytes]:
    indices, corners = np.array(_TRIANGLES, "<u2").tobytes(), np.array(_CORNERS, "<f4").tobytes()
    scene = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"children": [1], "scale": [1, 2, 3]}, {"mesh": 0, "rotation": [0, 0, 0, 1]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 1}, "indices": 0}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5123, "count": 36, "type": "SCALAR"},
            {"bufferView": 1, "componentType": 5126, "count": 8, "type": "VEC3"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 72},
            {"buffer": 0, "byteOffset": 72, "byteLength": 96},
        ],
        "buffers": [{"byteLength": 168}],
    }
    return json.dumps(scene), indices + corners


def _glb() -> bytes:
    text, binary = _gltf()
    head = text.encode().ljust(-(-len(text) // 4) * 4)
    parts = [
        np.array([len(part), kind], "<u4").tobytes() + part
        for part, kind in ((head, 0x4E4F534A), (binary, 0x004E4942))
    ]
    body = b"".join(parts)
    return b"glTF" + np.array([2, 12 + len(body)], "<u4").tobytes() + body


def _view(folder: Path) -> Path:
    Image.effect_noise((40, 30), 50).convert("LA").save(folder / "view.png")
    return folder / "view.png"


def _tensorflow(folder: Path) -> Path:
    variables: dict[str, Any] = {
        f"simple_net/{layer}/{part}": np.ones((3, 2) if part == "Matrix" else 2, np.float32)
        for layer in ("h1_lin", "h8_lin")
        for part in ("Matrix", "bias")
    }
    np.savez(folder / "v1.npz", **variables)
    return folder / "v1.npz"


READERS = [
    Reader("HDF5 of shapes", _hdf5, _read_hdf5),
    Reader("HDF5 of shapes, batches", _hdf5, _batch),
    Reader("HDF5 of codes", _codes, lambda path: read_codes(path, (4,))),
    Reader("names of shapes", _names, _read_names),
    *(
        _mesh(name, content)
        for name, content in (
            ("negative.obj", _obj),
            ("box.off", _off),
            ("ascii.ply", _ply_ascii),
            ("binary.ply", _ply_binary),
            ("binary.stl", _stl_binary),
            ("ascii.stl", _stl_ascii),
            ("scene.glb", _glb),
        )
    ),
    Reader("picture as a view", _view, read_view),
    Reader("npz of IM-NET's first release", _tensorflow, official.load),
]
