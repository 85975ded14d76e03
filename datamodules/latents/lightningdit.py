"""LightningDiT's layout: safetensors shards of both views, and the statistics that give their scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.latents.layouts import (
    Array,
    LatentItems,
    check_labels,
    chosen_views,
    damaged,
    finite,
    integer_labels,
    missing,
    sizes,
)
from datamodules.loading.files import json_of, one_line
from datamodules.loading.sampling import batch_keys, global_seed, item_seeds
from datamodules.loading.tensors import read_tensors

STATISTICS = "latents_stats.pt"
_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32}
_HEADER_LIMIT = 100_000_000  # of the safetensors format


class LightningDiTLatents(LatentItems):
    """Shards of draws of the plain and of the mirrored image, each used with probability 1/2.

        z = (x - mean) / std * multiplier

    with the channel statistics of ``latents_stats.pt``. Items are the rows of the shards in the order of
    their names. The view is a function of (seed, epoch, index); the posterior draw is the stored one.

    Args:
        root: folder of the shards.
        num_classes: labels must lie below.
        norm: subtract mean and divide by std (``latent_norm`` of LightningDiT's configs).
        multiplier: ``latent_multiplier`` of LightningDiT's configs; 0.18215 with ``norm`` off for Stable
            Diffusion's VAE.

    Raises:
        FileNotFoundError, ValueError: for missing, unreadable or inconsistent files.
    """

    views, moments, scale = 2, False, 1.0

    def __init__(
        self, root: Path, num_classes: int = 1000, norm: bool = True, multiplier: float = 1.0
    ) -> None:
        self._paths = sorted(root.glob("*.safetensors"))
        if not self._paths:
            raise missing(root / "latents_rank00_shard000.safetensors", "lightningdit")
        self.multiplier = multiplier
        self._shards: list[dict[str, Array]] | None = None
        labels = [_labels(s, p) for s, p in zip(self.shards, self._paths, strict=True)]
        self.labels = np.concatenate(labels)
        self._ends = np.cumsum([len(x) for x in labels])
        check_labels(root, self.labels, num_classes)
        shapes = {p: s["latents"].shape[1:] for s, p in zip(self.shards, self._paths, strict=True)}
        self.shape: tuple[int, ...] = shapes[self._paths[0]]
        for path, shape in shapes.items():
            if shape != self.shape:
                raise damaged(path, "lightningdit", f"latents {shape}, those of the first shard {self.shape}")
        channels = self.shape[0]
        if norm:
            self.normalise(*read_statistics(root / STATISTICS, channels))
        else:
            self.normalise(torch.zeros(1, channels, 1, 1), torch.ones(1, channels, 1, 1))

    def normalise(self, mean: Tensor, std: Tensor) -> None:
        """Take this mean and deviation per channel (1, C, 1, 1): held-out latents have the training set's."""
        self.mean, self.std = mean, std
        self.statistics = (mean.flatten().tolist(), (std / self.multiplier).flatten().tolist())

    @property
    def shards(self) -> list[dict[str, Array]]:
        """Memory maps of each shard's tensors, opened once per process."""
        if self._shards is None:
            self._shards = [map_safetensors(p, ("latents", "latents_flip", "labels")) for p in self._paths]
        return self._shards

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": None}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        views = chosen_views(item_seeds(global_seed(), epochs, index), 2)
        return {
            "latent": finite(
                self._normalised(self._rows(index, views)),
                lambda row: self._paths[int(np.searchsorted(self._ends, index[row], side="right"))],
            ),
            "label": torch.from_numpy(self.labels[index]),
            "index": torch.from_numpy(index),
        }

    def _rows(self, index: Array, views: Array) -> Tensor:
        """float32 (B, C, S, S) as stored."""
        shard = np.searchsorted(self._ends, index, side="right")
        row = index - np.where(shard > 0, self._ends[shard - 1], 0)
        names = ("latents", "latents_flip")
        first = self.shards[0]["latents"]
        values = np.empty((len(index), *self.shape), dtype=first.dtype)
        for i, (s, r, v) in enumerate(zip(shard.tolist(), row.tolist(), views.tolist(), strict=True)):
            values[i] = self.shards[s][names[v]][r]
        if values.dtype == np.uint16:  # bfloat16, which NumPy does not know
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16).float()
        return torch.from_numpy(values).float()

    def _normalised(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std * self.multiplier

    def stored(self, index: Array) -> tuple[Array, Array]:
        """(values (B, 2, C, S, S) in training scale, labels int64 (B,))."""
        views = [self._normalised(self._rows(index, np.full(len(index), v))) for v in (0, 1)]
        return torch.stack(views, dim=1).numpy(), self.labels[index]


def _labels(shard: dict[str, Array], path: Path) -> Array:
    """Checked labels of a shard, int64 (n,)."""
    labels, latents = shard["labels"], shard["latents"]
    count = len(latents)
    if latents.ndim != 4 or np.issubdtype(latents.dtype, np.signedinteger):
        raise damaged(path, "lightningdit", f"latents of type {latents.dtype}, shape {latents.shape}")
    if shard["latents_flip"].shape != latents.shape or shard["latents_flip"].dtype != latents.dtype:
        what = f"latents_flip {shard['latents_flip'].shape}, latents {latents.shape}"
        raise damaged(path, "lightningdit", what)
    if labels.shape not in ((count,), (count, 1)):
        raise damaged(path, "lightningdit", f"labels {labels.shape} for {count} latents")
    return integer_labels(labels.reshape(-1), path, "lightningdit")


def map_safetensors(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Memory maps of tensors of a safetensors file; bfloat16 as uint16.

    The library copies a row on every read; random rows of a map cost a tenth of that.

    Raises:
        ValueError: if a tensor is missing or the file is not as long as its header says.
    """
    found = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if found < 8 or length > min(found - 8, _HEADER_LIMIT):
                raise damaged(path, "lightningdit", f"{found:,} bytes are too short for its header")
            header: dict[str, Any] = json_of(file.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        if found != expected:
            raise damaged(path, "lightningdit", sizes(expected, found))
        lost = [name for name in names if name not in tensors]
        if lost:
            raise damaged(path, "lightningdit", f"no tensor {', '.join(lost)}")
        content = np.asarray(np.memmap(path, mode="r"))[8 + length :]
        return {name: _view(content, tensors[name]) for name in names}
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        if str(error).startswith(f"{path} "):
            raise
        what = one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise damaged(path, "lightningdit", what) from None


def _view(content: Array, entry: dict[str, Any]) -> Array:
    if entry["dtype"] not in _TYPES:
        raise TypeError(f"tensors of type {entry['dtype']}")
    start, end = entry["data_offsets"]
    dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
    if end - start != math.prod(shape) * dtype.itemsize:
        raise TypeError(f"{end - start} bytes for shape {shape}")
    return content[start:end].view(dtype).reshape(shape)


def read_statistics(path: Path, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, float32 (1, C, 1, 1)."""
    if not path.is_file():
        raise missing(path, "lightningdit")
    try:
        content = read_tensors(path)
        mean, std = (content[key] for key in ("mean", "std"))
    except ValueError as error:
        raise damaged(path, "lightningdit", error) from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise damaged(path, "lightningdit", f"{type(error).__name__}: {error}") from None
    for name, value in (("mean", mean), ("std", std)):
        if not isinstance(value, Tensor) or value.shape != (1, channels, 1, 1):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise damaged(path, "lightningdit", f"{name} {found} for {channels} channels")
    mean, std = mean.float(), std.float()
    if not bool((torch.isfinite(mean) & torch.isfinite(std) & (std > 0)).all()):
        raise damaged(path, "lightningdit", "statistics that are not finite and positive")
    return mean, std


def write_shards(
    root: Path,
    count: int,
    read: Callable[[Array], tuple[Array, Array, Array]],
    rows: int = 10_000,
    chunk: int = 250,
) -> None:
    """Write items as shards with statistics, those of the plain latents over all items.

    Args:
        root: folder that exists.
        count: number of items.
        read: index (B,) -> plain, flipped (B, C, S, S) and labels (B,).
        rows: items per shard.
        chunk: items read at a time.
    """
    from safetensors.numpy import save_file

    sums, values = np.zeros(2), 0
    for number, start in enumerate(range(0, count, rows)):
        stop = min(start + rows, count)
        parts = [read(np.arange(i, min(i + chunk, stop))) for i in range(start, stop, chunk)]
        plain, flipped, labels = (np.concatenate(x) for x in zip(*parts, strict=True))
        axes = (0, 2, 3)
        sums = sums + np.stack([(plain.astype(np.float64) ** p).sum(axis=axes) for p in (1, 2)], axis=-1)
        values += plain[:, 0].size
        tensors = {
            "latents": plain.astype(np.float32),
            "latents_flip": flipped.astype(np.float32),
            "labels": labels.astype(np.int64),
        }
        path = root / f"latents_rank00_shard{number:03d}.safetensors"
        # safetensors writes the memory as it lies: what is not in C order would come back permuted
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    mean = sums[:, 0] / values  # (C,)
    std = np.sqrt((sums[:, 1] - values * mean**2) / max(values - 1, 1))
    content = {"mean": mean, "std": std}
    torch.save(
        {k: torch.from_numpy(v).float().reshape(1, -1, 1, 1) for k, v in content.items()}, root / STATISTICS
    )
