"""Batch order that resumes exactly and does not depend on the number of processes.

A training batch is a slice of one global permutation per epoch; a process takes every world-th item of it. The
position is the state, so a loader restored mid-epoch goes on with the next batch. Data sets receive (epoch, index):
augmentation is a function of both, never of a global generator.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader


def global_seed() -> int:
    """The seed of ``seed_everything`` (0 when it was never called)."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def item_generator(*key: int) -> np.random.Generator:
    """Random numbers of one item, a function of the key, usually (seed, epoch, index)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(key))))


class GlobalBatchSampler:
    """Shuffled training batches; the last partial batch of an epoch is dropped. State: (epoch, position).

    Args:
        size: number of items.
        batch_size: global batch, over all processes.
        rank, world_size: this process takes items rank, rank + world_size, ... of each batch.
        seed: of the permutations, one per epoch.

    Raises:
        ValueError: if the data hold less than one batch or ``world_size`` does not divide the batch.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"data.init_args.batch_size is global and must be a positive multiple of the number of devices, "
                f"got {batch_size} for {world_size}"
            )
        if size < batch_size:
            raise ValueError(
                f"data.init_args.batch_size is {batch_size}, but the training data hold {size} items"
            )
        self.size, self.batch_size, self.rank, self.world_size, self.seed = (
            size,
            batch_size,
            rank,
            world_size,
            seed,
        )
        self.epoch, self.position, self._restored = 0, 0, False

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.position >= len(self):
            self.epoch, self.position = self.epoch + 1, 0
            if self._restored:
                # Lightning asks a loader that was restored at an epoch's end once, to see it empty.
                self._restored = False
                return
        self._restored = False
        shuffle = torch.Generator().manual_seed(int(item_generator(self.seed, self.epoch).integers(2**62)))
        order = torch.randperm(self.size, generator=shuffle)
        while self.position < len(self):
            start = self.position * self.batch_size
            self.position += 1
            batch = order[start : start + self.batch_size][self.rank :: self.world_size]
            yield [(self.epoch, i) for i in batch.tolist()]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position, self._restored = state["epoch"], state["position"], True


class EvaluationBatchSampler:
    """Items in order, each exactly once over all processes, in equally many batches on each process.

    A last batch too small to give every process an item joins the one before it, so that sharded networks, whose
    forward is a collective, stay in step.
    """

    def __init__(self, size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if size < world_size:
            raise ValueError(f"{size} items cannot be spread over {world_size} devices; use fewer devices")
        batch_size = max(batch_size, world_size)
        starts = list(range(0, size, batch_size))
        if len(starts) > 1 and size - starts[-1] < world_size:
            starts.pop()
        bounds = [*starts, size]
        self._batches = [range(a + rank, b, world_size) for a, b in itertools.pairwise(bounds)]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(batch) for batch in self._batches)


class TensorItems(Dataset[dict[str, Tensor]]):
    """Tensors of equal length as a data set that fetches a whole batch at once. Every batch has ``index`` (B,).

    Args:
        repeats: the data set is gone through so many times; ``index`` counts on.
        **tensors: batch key -> (N, ...) tensor.
    """

    def __init__(self, repeats: int = 1, **tensors: Tensor) -> None:
        self.tensors, self.repeats = tensors, repeats
        self.items = len(next(iter(tensors.values())))

    def __len__(self) -> int:
        return self.items * self.repeats

    def __getitems__(self, keys: Sequence[int] | Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        index = torch.tensor([k[1] if isinstance(k, tuple) else k for k in keys])
        return {**{name: x[index % self.items] for name, x in self.tensors.items()}, "index": index}

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        index = key[1] if isinstance(key, tuple) else key
        return {k: v[0] for k, v in self.__getitems__([index]).items()}


def as_is(batch: Any) -> Any:
    """Collate function of data sets whose ``__getitems__`` returns a finished batch."""
    return batch


def _place(module: LightningDataModule) -> tuple[int, int]:
    trainer = module.trainer
    return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def train_loader(
    module: LightningDataModule,
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] = as_is,
) -> StatefulDataLoader[Any]:
    """A resumable training loader of ``dataset``, whose items are asked for as (epoch, index)."""
    rank, world = _place(module)
    sampler = GlobalBatchSampler(len(dataset), batch_size, rank, world, global_seed())  # type: ignore[arg-type]
    return StatefulDataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=torch.cuda.is_available(),
    )


def evaluation_loader(
    module: LightningDataModule,
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] = as_is,
) -> DataLoader[Any]:
    """A loader that shows each item once over all processes; ``batch_size`` is global."""
    rank, world = _place(module)
    sampler = EvaluationBatchSampler(len(dataset), batch_size, rank, world)  # type: ignore[arg-type]
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate_fn)
