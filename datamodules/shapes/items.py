"""Batches of shapes out of a store: points of the stage, voxels, views, codes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import batch_keys, global_seed, item_seeds
from datamodules.shapes.building import SURFACE
from datamodules.shapes.stores import Store
from datamodules.shapes.views import CROP
from datamodules.shapes.voxels import pooled, surface_points

TEST_VIEW = 23


def stage_of(epoch: int, stages: Sequence[dict[str, int]]) -> int:
    """Resolution of an epoch; the last stage goes on for ever."""
    for stage in stages:
        if epoch < stage["epochs"]:
            break
        epoch -= stage["epochs"]
    return stage["resolution"]


class ShapeItems(BatchItems):
    """Shapes of a store; in training the point set follows the epoch, and the view is a draw of the item.

    Args:
        store: where they lie.
        index: rows of the store.
        stages: see :class:`Shapes`.
        input_size: side of ``voxels``.
        views: also give a view.
        codes: also give these codes.
        fine: also give ``fine`` of this side and ``surface``, for tests.
        category: also give these numbers of all rows of the store.
        wanted: keys that a training step takes, of which alone the files are read; null is all.
    """

    def __init__(
        self,
        store: Store,
        index: Sequence[int],
        stages: Sequence[dict[str, int]],
        input_size: int,
        views: bool = False,
        codes: np.ndarray[Any, Any] | None = None,
        fine: int = 0,
        category: np.ndarray[Any, Any] | None = None,
        wanted: Collection[str] | None = None,
    ) -> None:
        self.category, self.wanted = category, wanted
        self.store, self.index, self.stages = store, list(index), list(stages)
        self.input_size, self.views, self.codes, self.fine = input_size, views, codes, fine

    def __len__(self) -> int:
        return len(self.index)

    def voxels(self, rows: Sequence[int]) -> Tensor:
        """The encoder's input, float32 (B, 1, S, S, S)."""
        return self._inputs(self.store.rows("voxels", rows))

    def _inputs(self, voxels: np.ndarray[Any, Any]) -> Tensor:
        found = voxels[..., 0]
        if self.input_size != found.shape[1]:
            found = np.stack([pooled(v, self.input_size) for v in found])
        return torch.from_numpy(found).float()[:, None]

    def voxels_in_order(self, size: int) -> Iterator[Tensor]:
        """The inputs of all items, whose rows ascend, ``size`` or fewer at once; files are read once."""
        taken = np.asarray(self.index, dtype=np.int64)
        for start, block in self.store.slabs("voxels", int(taken.max(initial=-1)) + 1):
            rows = taken[(start <= taken) & (taken < start + len(block))] - start
            for first in range(0, len(rows), size):
                yield self._inputs(block[rows[first : first + size]])

    def _points(self, rows: Sequence[int], resolution: int) -> tuple[Tensor, Tensor]:
        """Points (B, P, 3) of the unit cube and values (B, P)."""
        if self.store.shape("points"):
            points, values = self.store.rows("points", rows), self.store.rows("values", rows)
            return torch.from_numpy(points), torch.from_numpy(values).float()
        points = self.store.rows(f"points_{resolution}", rows)
        values = self.store.rows(f"values_{resolution}", rows)[..., 0]
        # uint8: 255 + 1 would wrap
        unit = (points.astype(np.float32) + 0.5) / self.store.grids[resolution]
        return torch.from_numpy(unit), torch.from_numpy(values).float()

    def view(self, epochs: Any, index: Any, rows: Sequence[int], training: bool) -> Tensor:
        """One view of each shape, float32 (B, 1, 128, 128) in [0, 1], cropped at offset 4."""
        count = self.store.shape("pixels")[1]
        if training:
            chosen = (item_seeds(global_seed(), epochs, index) % np.uint64(count)).astype(np.int64)
        else:
            chosen = np.full(len(rows), min(TEST_VIEW, count - 1))
        pixels = self.store.row_parts("pixels", rows, chosen.tolist())
        start = (pixels.shape[-1] - CROP) // 2
        crop = pixels[:, start : start + CROP, start : start + CROP]
        return torch.from_numpy(crop.astype(np.float32) / 255)[:, None]

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        training = any(isinstance(k, tuple) for k in keys)
        rows = [self.index[i] for i in index]
        resolution = stage_of(int(epochs[0]) if training else 10**9, self.stages)
        wanted = self.wanted if training else None
        batch = {
            "index": torch.from_numpy(index),
            "epoch": torch.from_numpy(epochs),
            "resolution": torch.full((len(rows),), resolution),
        }
        if wanted is None or "voxels" in wanted:
            batch["voxels"] = self.voxels(rows)
        if wanted is None or "points" in wanted:
            batch["points"], batch["values"] = self._points(rows, resolution)
        if self.views and (wanted is None or "view" in wanted):
            batch["view"] = self.view(epochs, index, rows, training)
        if self.codes is not None and training:
            batch["code"] = torch.from_numpy(self.codes[rows])
        if self.category is not None:
            batch["category"] = torch.from_numpy(self.category[rows])
        if self.fine:
            batch["fine"], batch["surface"] = self._truth(rows)
        return batch

    def _truth(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        if self.store.shape("surface"):
            fine, surface = self.store.rows("fine", rows), self.store.rows("surface", rows)
        else:
            fine = self.store.rows("voxels", rows)[..., 0]
            surface = np.stack(
                [
                    surface_points(v, SURFACE, np.random.default_rng(i))
                    for v, i in zip(fine, rows, strict=True)
                ]
            )
        if fine.shape[1] != self.fine:
            fine = np.stack([pooled(v, self.fine) for v in fine])
        return torch.from_numpy(fine.astype(np.uint8)), torch.from_numpy(surface)
