"""Collects encoded pictures into shards while ``zoo predict`` runs, and packs them at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from zoo.diffusion.latents.shards import ShardStore
from zoo.reports import say


@dataclass
class EncodedImages:
    """Pictures encoded by a VAE.

    Attributes:
        latents: (B, V, C or 2 C, S, S) float16 on the CPU.
        labels: (B,) classes.
        index: (B,) consecutive places in the data set.
    """

    latents: Tensor
    labels: Tensor
    index: Tensor


class ShardWriter(BasePredictionWriter):
    """Takes the place of the usual writer of predictions: a module that brings a writer along has that one.

    Attributes:
        store: set by the module once the data are known.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self.store: ShardStore | None = None
        self._number = -1
        self._latents: list[np.ndarray[Any, Any]] = []
        self._labels: list[np.ndarray[Any, Any]] = []

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert self.store is not None
        first = int(prediction.index[0])
        number, offset = divmod(first, self.store.shard_size)
        if offset == 0:
            self._number, self._latents, self._labels = number, [], []
        held = sum(map(len, self._latents))
        if number != self._number or offset != held:
            raise ValueError(f"picture {first} does not follow {held} of shard {self._number}")
        self._latents.append(prediction.latents.numpy())
        self._labels.append(prediction.labels.numpy())
        if held + len(prediction.index) == self.store.size(number):
            self.store.write(number, np.concatenate(self._latents), np.concatenate(self._labels))
            self._latents, self._labels = [], []

    # A rank without work never comes to `on_predict_start` and `on_predict_end`: the end is in `teardown`.
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.store is None:
            return
        trainer.strategy.barrier("zoo.diffusion.latents")
        if trainer.is_global_zero:
            self._finish(self.store)
        trainer.strategy.barrier("zoo.diffusion.latents.packed")

    def _finish(self, store: ShardStore) -> None:
        if store.complete:
            store.clean()
            say(f"{store.folder} is complete: {store.count:,} pictures")
            return
        done = len(store.finished())
        if done < store.shards:
            say(f"{done} of {store.shards} shards are done; the same command goes on")
            return
        say(f"packing {store.shards} shards")
        store.merge()
        store.clean()
        say(f"wrote {store.folder}: {store.count:,} pictures; use it as --data.init_args.root {store.folder}")
