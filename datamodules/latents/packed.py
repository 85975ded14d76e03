"""The zoo's own layout: one memory-mapped array."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.latents.layouts import (
    SCALE,
    Array,
    LatentItems,
    chosen_views,
    damaged,
    finite,
    integer_labels,
    load_npy,
    missing,
    normal_noise,
)
from datamodules.loading.files import read_json
from datamodules.loading.sampling import batch_keys, global_seed, item_seeds


class PackedLatents(LatentItems):
    """One memory-mapped array of latents or of their moments; :func:`write_packed` writes it.

    ``latents.npy`` is float16 (N, V, 4, S, S), or (N, V, 8, S, S) when ``meta.json`` says ``moments``:
    posterior mean, then standard deviation, unscaled. V = 2 holds the encodings of the image and of its
    mirror image, each used with probability 1/2. Latents are never flipped, which is only about the same.

        z = (mean + std eps) scale

    View and eps are functions of (seed, epoch, index), whatever the batch, the worker and the process.

    Raises:
        FileNotFoundError, ValueError: for missing, unreadable or inconsistent files.
    """

    def __init__(self, root: Path) -> None:
        meta_path, self._path = root / "meta.json", root / "latents.npy"
        if not meta_path.is_file():
            raise missing(meta_path, "packed")
        try:
            self.meta: dict[str, Any] = read_json(meta_path)
            self.scale, self.moments = float(self.meta["scale"]), self.meta["moments"]
            self.statistics = self._statistics()
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(meta_path, "packed", f"{type(error).__name__}: {error}") from None
        if not (math.isfinite(self.scale) and self.scale > 0 and isinstance(self.moments, bool)):
            raise damaged(meta_path, "packed", f"scale {self.scale}, moments {self.moments!r}")
        self._latents: Array | None = None
        shape = self.latents.shape
        if len(shape) != 5 or not all(shape) or (self.moments and shape[2] % 2) or shape[3] != shape[4]:
            raise damaged(self._path, "packed", f"shape {shape}, moments {str(self.moments).lower()}")
        if self.latents.dtype not in (np.float16, np.float32):
            raise damaged(self._path, "packed", f"type {self.latents.dtype}")
        labels = load_npy(root / "labels.npy", "packed")
        if labels.shape != shape[:1]:
            raise damaged(root / "labels.npy", "packed", f"shape {labels.shape} for {shape[0]} latents")
        self.labels = torch.from_numpy(integer_labels(labels, root / "labels.npy", "packed"))
        self.views = int(shape[1])
        self.shape: tuple[int, ...] = (shape[2] // 2 if self.moments else shape[2], shape[3], shape[4])
        if self.statistics is not None and {len(v) for v in self.statistics} != {self.shape[0]}:
            raise damaged(meta_path, "packed", f"latent_mean and latent_std are no {self.shape[0]} numbers")

    def _statistics(self) -> tuple[list[float], list[float]] | None:
        """Those of a set that was converted from ``lightningdit``: it holds normalised latents."""
        if "latent_mean" not in self.meta:
            return None
        mean, std = ([float(v) for v in self.meta[key]] for key in ("latent_mean", "latent_std"))
        if not all(math.isfinite(v) for v in (*mean, *std)) or min(std) <= 0:
            raise ValueError("latent_mean and latent_std must be finite, latent_std above 0")
        return mean, std

    @property
    def latents(self) -> Array:
        """The memory map, opened once per process."""
        if self._latents is None:
            # A plain view: indexing the memmap class itself costs more per batch.
            self._latents = np.asarray(load_npy(self._path, "packed", mmap=True))
        return self._latents

    def __getstate__(self) -> dict[str, Any]:
        # Pickled for a worker, a memory map would be the whole array.
        return self.__dict__ | {"_latents": None}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        seeds = item_seeds(global_seed(), epochs, index)
        values = torch.from_numpy(self.latents[index, chosen_views(seeds, self.views)]).float()
        if self.moments:
            mean, std = values.chunk(2, dim=1)  # (B, C, S, S) each
            values = torch.addcmul(mean, std, normal_noise(seeds, self.shape))
        rows = torch.from_numpy(index)
        latents = finite(values * self.scale, lambda row: self._path)
        return {"latent": latents, "label": self.labels[rows], "index": rows}

    def stored(self, index: Array) -> tuple[Array, Array]:
        """(values (B, V, C or 2 C, S, S) before scaling, labels int64 (B,))."""
        return self.latents[index], self.labels.numpy()[index]


def write_packed(
    root: Path,
    batches: Iterable[tuple[Array, Array]],
    count: int,
    *,
    moments: bool,
    scale: float = SCALE,
    dtype: Any = np.float16,
    **meta: Any,
) -> None:
    """Write the packed layout batch by batch, so that any number of items needs little memory.

    ``meta.json`` comes last: a folder that was cut short is not taken for a whole one.

    Args:
        root: folder, made if needed.
        batches: (latents (B, V, C, S, S), labels (B,)) in order; with ``moments`` C is 8.
        count: number of items in all.
        moments: whether latents are posterior mean and standard deviation.
        scale: factor from what is stored to what the model sees.
        dtype: float16, or float32 for a copy to the bit of layouts that have it.
        **meta: further entries of meta.json, ``vae="sd-vae-ft-ema"`` for instance.

    Raises:
        ValueError: for batches that do not add up to ``count`` or do not fit into ``dtype``.
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "meta.json").unlink(missing_ok=True)
    temporary = root / ".latents.npy.tmp"
    stored: np.memmap[Any, Any] | None = None
    labels, done = np.empty(count, dtype=np.int64), 0
    for latents, batch_labels in batches:
        if stored is None:
            stored = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=dtype, shape=(count, *latents.shape[1:])
            )
        if len(latents) != len(batch_labels) or done + len(latents) > count:
            raise ValueError(
                f"{len(latents)} latents, {len(batch_labels)} labels after {done} of {count} items"
            )
        with np.errstate(over="ignore"):  # answered below
            values = np.asarray(latents).astype(dtype)
        if not np.isfinite(values).all():
            name = np.dtype(dtype).name
            raise ValueError(f"items {done} to {done + len(values) - 1} hold values that {name} cannot")
        stored[done : done + len(values)], labels[done : done + len(values)] = values, batch_labels
        done += len(values)
    if stored is None or done != count:
        raise ValueError(f"{done} items came, {count} were announced")
    stored.flush()
    os.replace(temporary, root / "latents.npy")
    np.save(root / "labels.npy", labels)
    content = {"scale": scale, "moments": moments, **meta}
    (root / "meta.json").write_text(json.dumps(content, indent=2) + "\n")
