"""Layouts of one .npy file per image: fast-DiT's, and the one of EDM2 and REPA."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.latents.layouts import (
    IMAGENET_TRAIN_ITEMS,
    LAYOUTS,
    SCALE,
    Array,
    LatentItems,
    check_labels,
    damaged,
    finite,
    load_npy,
    missing,
    normal_noise,
)
from datamodules.loading.files import read_json
from datamodules.loading.sampling import batch_keys, global_seed, item_seeds


class _EqualFiles:
    """.npy files of one type and shape, whose equal headers are parsed once.

    NumPy's own reader takes several times longer than the read itself.

    Attributes:
        example: content of the first file.
    """

    def __init__(self, folder: Path, first: str, layout: str) -> None:
        self.folder, self.layout, self.example = folder, layout, load_npy(folder / first, layout)
        content = (folder / first).read_bytes()
        self.header, self.size = content[: len(content) - self.example.nbytes], len(content)

    def read(self, name: str) -> Array:
        path = f"{self.folder}/{name}"
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            raise missing(Path(path), self.layout) from None
        if len(content) == self.size and content.startswith(self.header):
            values = np.frombuffer(content, self.example.dtype, offset=len(self.header))
            return values.reshape(self.example.shape, order="C" if self.example.flags.c_contiguous else "F")
        array = load_npy(Path(path), self.layout)
        if array.shape != self.example.shape or array.dtype != self.example.dtype:
            what = f"{array.dtype} {array.shape}, others are {self.example.dtype} {self.example.shape}"
            raise damaged(Path(path), self.layout, what)
        return array


class FastDiTLatents(LatentItems):
    """One .npy file per image, as fast-DiT's extractor writes them: one posterior draw, already scaled.

    Files are paired by name, in numerical order. Warns that the flip and the draw are frozen, and when the
    number of files is not that of ImageNet: the extractor run on several processes overwrites files, since
    their numbers lack the rank. Labels are read with their latents: reading a million files first would take
    minutes.

    Args:
        root: folder that holds the two folders.
        num_classes: labels must lie below.
        expected: number of files that the extractor should have written.

    Raises:
        FileNotFoundError, ValueError: for missing, unpaired or unreadable files.
    """

    views, moments, scale = 1, False, 1.0

    def __init__(self, root: Path, num_classes: int = 1000, expected: int = IMAGENET_TRAIN_ITEMS) -> None:
        self.features, self.label_files = root / "imagenet256_features", root / "imagenet256_labels"
        for folder in (self.features, self.label_files):
            if not folder.is_dir():
                raise missing(folder, "fast-dit")
        names, labels = _npy_names(self.features), _npy_names(self.label_files)
        unpaired = sorted(set(names) ^ set(labels))
        if unpaired:
            raise ValueError(
                f"{root}: {len(unpaired)} files without partner, for example {unpaired[0]!r}; "
                f"layout 'fast-dit' needs {LAYOUTS['fast-dit']}"
            )
        if not names:
            raise missing(self.features / "0.npy", "fast-dit")
        self._warn(root, len(names), expected)
        # An array, since a million Python strings are copied into every worker that touches them.
        self.names, self.num_classes = np.array(names), num_classes
        self._files = [
            _EqualFiles(folder, names[0], "fast-dit") for folder in (self.features, self.label_files)
        ]
        latent, label = (files.example for files in self._files)
        if latent.ndim != 4 or latent.shape[0] != 1 or not np.issubdtype(latent.dtype, np.floating):
            raise damaged(self.features / names[0], "fast-dit", f"{latent.dtype} of shape {latent.shape}")
        if label.size != 1 or not np.issubdtype(label.dtype, np.integer):
            raise damaged(self.label_files / names[0], "fast-dit", f"{label.dtype} of shape {label.shape}")
        self.shape: tuple[int, ...] = latent.shape[1:]

    @staticmethod
    def _warn(root: Path, found: int, expected: int) -> None:
        rank_zero_warn(
            f"{root}: fast-DiT's extractor froze one random flip and one posterior draw per image, so every "
            "epoch sees the same latents"
        )
        if found == expected:
            return
        part = {IMAGENET_TRAIN_ITEMS: "training"}.get(expected, "validation")
        rank_zero_warn(
            f"{root} holds {found:,} latents, ImageNet's {part} set {expected:,}: "
            "fast-DiT's extractor overwrites files when it runs on several processes"
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        _, index = batch_keys(keys)
        values, labels = self.stored(index)
        return {
            "latent": finite(
                torch.from_numpy(values[:, 0].astype(np.float32)),
                lambda row: self.features / self.names[index[row]],
            ),
            "label": torch.from_numpy(labels),
            "index": torch.from_numpy(index),
        }

    def stored(self, index: Array) -> tuple[Array, Array]:
        """(values (B, 1, C, S, S), already scaled, labels int64 (B,))."""
        names = self.names[index]
        latents, labels = (np.stack([files.read(name) for name in names]) for files in self._files)
        labels = labels.reshape(-1).astype(np.int64)
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            raise ValueError(
                f"{self.label_files / names[wrong][0]}: label {labels[wrong][0]}, but "
                f"data.init_args.num_classes is {self.num_classes}"
            )
        return latents, labels


class RepaLatents(LatentItems):
    """One .npy file of posterior moments per image, as EDM2's and REPA's dataset_tools.py writes them.

    A file is float32 (8, S, S), mean and standard deviation of the plain image, unscaled:

        z = (mean + std eps) 0.18215

    with eps a function of (seed, epoch, index). Items are the entries of ``dataset.json`` sorted by name, as
    REPA reads them. REPA's ``images/``, for its alignment loss, are not needed here.

    Raises:
        FileNotFoundError, ValueError: for missing, unreadable or inconsistent files.
    """

    views, moments, scale = 1, True, SCALE

    def __init__(self, root: Path, num_classes: int = 1000) -> None:
        self.folder = root / "vae-sd"
        index_path = self.folder / "dataset.json"
        if not index_path.is_file():
            raise missing(index_path, "repa")
        try:
            entries = sorted((str(name), label) for name, label in read_json(index_path)["labels"])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(index_path, "repa", f"{type(error).__name__}: {error}") from None
        entries = [e for e in entries if e[0].endswith(".npy")]
        if not entries or not all(type(label) is int and abs(label) < 2**62 for _, label in entries):
            raise damaged(index_path, "repa", "no names of .npy files with whole-number labels")
        outside = next((n for n, _ in entries if n.startswith("/") or ".." in n.split("/")), None)
        if outside is not None:
            raise damaged(index_path, "repa", f"{outside!r} lies outside the folder")
        self.names = np.array([name for name, _ in entries])
        if len(np.unique(self.names)) != len(self.names):
            raise damaged(index_path, "repa", "a name stands in it twice")
        self.labels = np.array([label for _, label in entries], dtype=np.int64)
        check_labels(index_path, self.labels, num_classes)
        self._files = _EqualFiles(self.folder, entries[0][0], "repa")
        example = self._files.example
        if example.ndim != 3 or example.shape[0] % 2 or not np.issubdtype(example.dtype, np.floating):
            what = f"{example.dtype} of shape {example.shape}"
            raise damaged(self.folder / entries[0][0], "repa", what)
        self.shape: tuple[int, ...] = (example.shape[0] // 2, *example.shape[1:])

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        moments, labels = self.stored(index)
        mean, std = torch.from_numpy(moments[:, 0].astype(np.float32)).chunk(2, dim=1)
        noise = normal_noise(item_seeds(global_seed(), epochs, index), self.shape)
        return {
            "latent": finite(
                torch.addcmul(mean, std, noise) * self.scale, lambda row: self.folder / self.names[index[row]]
            ),
            "label": torch.from_numpy(labels),
            "index": torch.from_numpy(index),
        }

    def stored(self, index: Array) -> tuple[Array, Array]:
        """(moments (B, 1, 2 C, S, S), unscaled, labels int64 (B,))."""
        return np.stack([self._files.read(name) for name in self.names[index]])[:, None], self.labels[index]


def _npy_names(folder: Path) -> list[str]:
    names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".npy")]
    return sorted(names, key=lambda n: (len(n), n))
