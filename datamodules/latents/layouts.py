"""What the layouts of latents are called, what each needs on disk, and reading ``.npy`` files safely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.arrays import plain_npy
from datamodules.loading.files import READ_ERRORS, one_line
from datamodules.loading.loaders import BatchItems

LatentLayout = Literal["packed", "fast-dit", "repa", "lightningdit"]
Array = np.ndarray[Any, Any]

IMAGENET_TRAIN_ITEMS, IMAGENET_VAL_ITEMS = 1_281_167, 50_000
SCALE = 0.18215  # of Stable Diffusion's VAE

LAYOUTS: dict[str, str] = {
    "packed": "latents.npy float16 (N, V, 4 or 8, S, S), labels.npy int64 (N,) and meta.json "
    '{"scale": 0.18215, "moments": true or false}',
    "fast-dit": "imagenet256_features/{i}.npy float32 (1, 4, S, S), already scaled, and "
    "imagenet256_labels/{i}.npy int64 (1,), as extract_features.py of fast-DiT "
    "(github.com/chuanyangjin/fast-DiT) writes them",
    "repa": "vae-sd/**/img-mean-std-*.npy float32 (8, S, S), posterior mean and deviation, unscaled, and "
    'vae-sd/dataset.json {"labels": [[name, label], ...]}, as the dataset_tools.py of EDM2 and REPA '
    "(github.com/sihyun-yu/REPA) writes them",
    "lightningdit": "*.safetensors shards with latents, latents_flip (n, C, S, S) and labels (n,), and "
    "latents_stats.pt {mean, std} (1, C, 1, 1), as extract_features.py of LightningDiT "
    "(github.com/hustvl/LightningDiT) writes them",
}
_SOURCE = (
    "encode ImageNet (image-net.org, ILSVRC2012) with Stable Diffusion's KL-f8 VAE "
    "(stabilityai/sd-vae-ft-ema on huggingface.co)"
)


class LatentItems(BatchItems):
    """What the data set of every layout offers.

    Attributes:
        shape: (C, S, S) of a latent.
        views: 2 with an encoding of the mirror image, else 1.
        moments: whether posterior means and deviations are stored, not draws.
        scale: factor from what :meth:`stored` gives to what the model sees.
        statistics: mean and deviation of each channel, C numbers each: what :meth:`stored` gives is
            (x - mean) / std of the VAE's own latents x; None where a factor alone lies between them.
    """

    shape: tuple[int, ...]
    views: int
    moments: bool
    scale: float
    statistics: tuple[list[float], list[float]] | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        """A batch: ``latent`` float32 (B, C, S, S) in training scale, ``label`` and ``index`` int64 (B,)."""
        raise NotImplementedError

    def stored(self, index: Array) -> tuple[Array, Array]:
        """(values (B, V, C or 2 C, S, S) before scaling, labels int64 (B,)) as the packed layout has them."""
        raise NotImplementedError


def detect_layout(root: Path) -> LatentLayout:
    """The layout of a folder, told by the names in it.

    Raises:
        FileNotFoundError: for a folder that is missing or of no layout.
    """
    if (root / "latents.npy").is_file() or (root / "meta.json").is_file():
        return "packed"
    if (root / "imagenet256_features").is_dir():
        return "fast-dit"
    if (root / "vae-sd").is_dir():
        return "repa"
    if any(root.glob("*.safetensors")):
        return "lightningdit"
    names = "; ".join(f"{name}: {files}" for name, files in LAYOUTS.items())
    raise FileNotFoundError(f"no latents at {root}; the layouts are {names}"[:590])


def missing(path: Path, layout: str) -> FileNotFoundError:
    """The error for a file that is not there."""
    return FileNotFoundError(
        f"no latents at {path}: layout {layout!r} needs {LAYOUTS[layout]}; {_SOURCE}, then set "
        "data.init_args.root (or the environment variable ZOO_DATA) to where they are"
    )


def damaged(path: Path, layout: str, what: object) -> ValueError:
    """The error for a file that is not what its layout says."""
    text = " ".join(str(what).split())
    return ValueError(
        f"{path} is damaged ({text}): layout {layout!r} needs {LAYOUTS[layout]}; {_SOURCE} anew"
    )


def load_npy(path: Path, layout: str, mmap: bool = False) -> Array:
    """A .npy file, never unpickled; its size is compared with its header first."""
    if not path.is_file():
        raise missing(path, layout)
    try:
        return plain_npy(path, mmap)
    except READ_ERRORS as error:
        if str(error).startswith(f"{path}:"):
            raise
        raise damaged(path, layout, one_line(error)) from None


def sizes(expected: int, found: int) -> str:
    """``expected 1,024 bytes, found 1,000``."""
    return f"expected {expected:,} bytes, found {found:,}"


def finite(latents: Tensor, file_of: Callable[[int], Path]) -> Tensor:
    """Latents (B, C, S, S) as they are.

    Args:
        latents: of a batch.
        file_of: the file that row i of them comes from.

    Raises:
        ValueError: if they hold NaN or infinite values, which would train without a word.
    """
    if not bool(latents.isfinite().all()):
        row = int((~latents.isfinite()).flatten(1).any(dim=1).int().argmax())
        raise ValueError(f"{file_of(row)}: latents hold NaN or infinite values; encode them anew")
    return latents


def integer_labels(labels: Array, path: Path, layout: str) -> Array:
    """Labels as int64.

    Raises:
        ValueError: if they are no integers.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise damaged(path, layout, f"labels of type {labels.dtype}")
    return labels.astype(np.int64)


def check_labels(root: Path, labels: Array, num_classes: int) -> None:
    """Refuse labels outside 0..num_classes - 1."""
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < num_classes:
        raise ValueError(
            f"{root}: labels run from {low} to {high}, but data.init_args.num_classes is {num_classes}"
        )


def normal_noise(seeds: Array, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 (B, *shape); row i depends on the low 32 bits of seed i, as torch does."""
    noise, generator = torch.empty(len(seeds), *shape), torch.Generator()
    for row, seed in zip(noise, (seeds & np.uint64(0xFFFFFFFF)).tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    return noise


def chosen_views(seeds: Array, views: int) -> Array:
    """Which encoding of each item is used, int64 (B,); from the high bits, which the noise leaves alone."""
    return ((seeds >> np.uint64(32)) % np.uint64(views)).astype(np.int64)
