"""Readers of files of others: nothing runs, nothing is allocated that the file cannot fill, one line each."""

from __future__ import annotations

import io
import json
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import torch
from numpy._core import multiarray
from PIL import Image
from scipy.sparse import coo_matrix, csr_matrix

from datamodules.loading import files, hdf5, limits, meshes, pictures
from datamodules.loading.arrays import read_npy, read_npz
from datamodules.loading.files import read_json
from datamodules.loading.restricted_pickle import read_pickle
from datamodules.loading.sparse import read_sparse
from datamodules.loading.tensors import read_tensors


class Made:
    """Is pickled as a call of anything, with a state."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def sparse(**parts: Any) -> Made:
    """A CSR matrix (20, 20) whose parts are what they should not be."""
    return Made(csr_matrix, ((3, 3),), {**csr_matrix((20, 20)).__dict__, **parts})


def flagless() -> Made:
    """A type of objects that hides that it holds objects, as state of NumPy's own type."""
    return Made(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))


def nested(depth: int) -> Any:
    found: Any = [1] * 10
    for _ in range(depth):
        found = [found] * 10
    return found


def holds_itself() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


far = np.arange(21, dtype=np.int32) * 10**8
HOSTILE = {
    "indptr far outside": (sparse(indptr=far, indices=far[:3], data=np.ones(3)), "indptr"),
    "an index far outside": (
        sparse(indptr=np.r_[np.zeros(20, int), 1], indices=np.array([10**9]), data=np.ones(1)),
        "indices",
    ),
    "parts that are lists": (sparse(indptr=[0] * 21, indices=[], data=[]), "no one-dimensional array"),
    "objects without their flag": (Made(multiarray.scalar, (flagless(), b"A" * 8)), "dtype 'O8'"),
    "raw bytes as objects": (
        Made(multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (2,), flagless(), False, b"A" * 16)),
        "dtype 'O8'",
    ),
    "a type with flags": (
        Made(multiarray.scalar, (Made(np.dtype, ("f8",), (3, "<", None, None, None, -1, -1, 63)), b"A" * 8)),
        "flags",
    ),
    "a billion of ones": (nested(8), "claims 1,111,111,111 elements"),
    "a list in itself": (holds_itself(), "holds itself"),
    "zeros of nothing": (Made(list, (Made(bytes, (10**9,)),)), "call of bytes"),
    "an array of nothing": (Made(np.ndarray, ((20, 10**8),)), "call of ndarray"),
    "more than its bytes": (
        Made(multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (10**9,), np.dtype("f8"), False, b"")),
        "0 bytes",
    ),
    "an attribute of a list": (Made(list, (), {"append": 1}), "a state of what has none"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_one_line_at_once(case: str, tmp_path: Path) -> None:
    content, words = HOSTILE[case]
    path = tmp_path / "cora_adj.pkl"
    path.write_bytes(pickle.dumps(content))
    began = time.process_time()
    with pytest.raises(ValueError, match=words) as caught:
        read_pickle(path, tensors=True)
    assert time.process_time() - began < 1
    assert str(caught.value).startswith(f"{path} is damaged")
    assert "\n" not in str(caught.value)


def test_a_tensor_that_reaches_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    from torch._utils import _rebuild_tensor_v2

    path = tmp_path / "labels.pkl"
    tensors = torch.randn(3, 4).t(), torch.arange(6)[2:5], torch.ones(2, dtype=torch.bool), torch.tensor(1.5)
    path.write_bytes(pickle.dumps(tensors))
    assert all(torch.equal(a, b) for a, b in zip(read_pickle(path, tensors=True), tensors, strict=True))
    storage = torch.arange(5).storage()
    for offset, size, stride in (
        (0, (10**9,), (1,)),
        (3, (3,), (1,)),
        (0, (10**6, 10**6), (0, 0)),
        (-1, (1,), (1,)),
    ):
        arguments = (storage, offset, size, stride, False, {})
        path.write_bytes(pickle.dumps(Made(_rebuild_tensor_v2, arguments)))
        with pytest.raises(ValueError, match=r"labels.pkl is damaged \((a tensor that|its arrays claim)"):
            read_pickle(path, tensors=True)


def npy(shape: tuple[int, ...], dtype: str = "<f8", data: bytes = b"") -> bytes:
    """An npy file whose header says what it wants."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def test_a_header_is_compared_with_the_file_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "feats.npy"
    for content, words in (
        (npy((10**6, 10**6)), "expected 8,000,000,000,128 bytes, found 128"),
        (npy((3,), data=bytes(16)), "expected 152 bytes, found 144"),
        (npy((1,), "|O", pickle.dumps(1)), "it holds pickled objects, which are never loaded"),
        (npy((1,), "<M8[s]", bytes(8)), "it holds .* neither numbers nor text"),
        (npy((2,), "|b1", b"\x01\x07"), "truth values other than 0 and 1"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"feats\.npy is damaged or has another layout \({words}"):
            read_npy(path)


def test_too_little_memory_names_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    """Not the batch size, which has nothing to do with it."""
    path = tmp_path / "feats.npy"
    path.write_bytes(npy((2,), data=bytes(16)))
    for error in (MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127]")):
        monkeypatch.setattr(np, "empty", Mock(side_effect=error))
        with pytest.raises(ValueError, match=r"feats\.npy: an array claims more memory than there is$"):
            read_npy(path)


def test_compressed_members_are_judged_by_what_they_are_stored_in(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "cora.npz"
    np.savez_compressed(path, edges=np.zeros((2, 10**7), np.int64))  # 160 MB in 0.2
    with pytest.raises(
        ValueError, match=r"cora\.npz: edges int64 .* claims 160,000,000 bytes, and has [\d,]+ for"
    ):
        read_npz(path, "edges")
    monkeypatch.setattr(files, "_LIMIT", 10**8)
    with pytest.raises(
        ValueError,
        match=r"claims 160,000,000 bytes, more than the 100,000,000 that are read; .*ZOO_LIMITS=off",
    ):
        read_npz(path, "edges")
    monkeypatch.setenv("ZOO_LIMITS", "off")
    assert read_npz(path, "edges")["edges"].shape == (2, 10**7)
    monkeypatch.delenv("ZOO_LIMITS")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("edges.npy", npy((10**12,)))
    with pytest.raises(ValueError, match="edges has 0 bytes for float64"):
        read_npz(path, "edges")


def test_a_flipped_bit_of_an_archive_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "cora.npz"
    np.savez(path, x=np.zeros(1000))
    content = bytearray(path.read_bytes())
    content[4000] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cora\.npz is damaged .*Bad CRC"):
        read_npz(path)
    saved = tmp_path / "stats.pt"
    torch.save({"mean": torch.zeros(1000)}, saved)
    assert torch.equal(read_tensors(saved)["mean"], torch.zeros(1000))
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 0x40
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=r"checksum of .* is wrong"):
        read_tensors(saved)


def test_sparse_matrices_of_npz_files_are_checked(tmp_path: Path) -> None:
    from scipy.sparse import save_npz

    path = tmp_path / "adj.npz"
    for matrix in (csr_matrix(np.eye(3)), coo_matrix(np.eye(3)), csr_matrix(np.eye(3)).tocsc()):
        save_npz(path, matrix)
        assert np.array_equal(read_sparse(path).toarray(), np.eye(3))
    parts = dict(np.load(path))
    for wrong in (
        {"indices": np.array([0, 1, 7])},
        {"indptr": np.array([0, 9, 1, 3])},
        {"format": np.array("x")},
    ):
        np.savez(path, **{**parts, **wrong})
        with pytest.raises(ValueError, match=r"adj\.npz is damaged"):
            read_sparse(path)


def test_json_without_end_or_with_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    for content, words in (
        ("[" * 100_000, "nests too deeply"),
        ('{"scale": NaN}', "NaN is no number"),
        ("{", "Expecting"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=words):
            read_json(path)
    path.write_text(json.dumps({"scale": 1.5}))
    assert read_json(path) == {"scale": 1.5}


def written_picture(path: Path) -> None:
    Image.new("L", (60, 40)).save(path, "png")


def written_mesh(path: Path) -> None:
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n" + "# a comment\n" * 100)


def written_chunks(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((50, 50)), chunks=(50, 50))


def read_chunks(path: Path) -> None:
    with hdf5.open_hdf5(path) as file:
        hdf5.dataset(file, path, "x")


@pytest.mark.parametrize(
    ("name", "write", "read", "module", "bound", "pillow"),
    [
        ("a.png", written_picture, pictures.read_picture, pictures, "check_size.__defaults__", 10**9),
        ("a.png", written_picture, pictures.read_picture, pictures, "check_size.__defaults__", 1000),
        ("a.obj", written_mesh, meshes.read_mesh, meshes, "SIZE_LIMIT", 10**9),
        ("a.hdf5", written_chunks, read_chunks, hdf5, "CHUNK_LIMIT", 10**9),
    ],
)
def test_one_word_lifts_each_limit_and_each_refusal_says_it(
    name: str, write: Any, read: Any, module: Any, bound: str, pillow: int, tmp_path: Path, monkeypatch: Any
) -> None:
    write(tmp_path / name)
    read(tmp_path / name)
    place, _, attribute = bound.rpartition(".")
    monkeypatch.setattr(getattr(module, place) if place else module, attribute, (1000,) if place else 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
    with pytest.raises(ValueError, match=rf"{name}.* ZOO_LIMITS=off"):
        read(tmp_path / name)
    monkeypatch.setenv("ZOO_LIMITS", "off")
    read(tmp_path / name)


def test_limits_of_weights_and_of_data_are_lifted_by_one_word() -> None:
    from zoo.hub import bounded

    assert bounded.LIFT == limits.LIFT
