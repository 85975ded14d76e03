"""Lists, names and manifests of active generation, and a Stable Diffusion folder's scheduler."""

from __future__ import annotations

from pathlib import Path

import torch
from fakes.active_generation import fake_cifar_with_names
from fuzz.forked import Reader
from safetensors.torch import save_file

from datamodules.images.active_sources import read_cifar_names
from zoo.actgen import manifest
from zoo.actgen.files import read_latent
from zoo.actgen.manifest import Row


def rows(folder: Path) -> Path:
    path = folder / "manifest.csv"
    folder.mkdir(parents=True, exist_ok=True)
    row = Row(
        "epoch_0000/00000_3.png", 3, 0, 0, 5, "guided", 1, 2, 77, 12.5, 7.5, 40, 0.05, 1.25, 4, -1, "used",
        "a photo of cat", "ab" * 32, "cd" * 16,
    )  # fmt: skip
    manifest.write(path, [row, row])
    return path


def latent(folder: Path) -> Path:
    path = folder / "latent.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"latent": torch.ones(4, 3, 3)}, str(path))
    return path


READERS = [
    Reader(
        "names of CIFAR's classes",
        fake_cifar_with_names,
        lambda path: read_cifar_names(path, "label_names", 10),
    ),
    Reader("manifest of generated images", rows, lambda path: [repr(r) for r in manifest.read(path)]),
    Reader("latent of a generated image", latent, read_latent),
]
