"""Batch order that resumes exactly and does not depend on the number of processes.

A training batch is a slice of one global permutation per epoch; a process takes every world-th item of it.
Where an epoch begins or goes on follows from the number of batches trained so far, which Lightning keeps in
every checkpoint: the loaders have no state of their own to lose, and prefetching workers cannot run ahead of
it. Data sets receive (epoch, index): augmentation is a function of both, never of a global generator.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


def global_seed() -> int:
    """The seed of ``seed_everything`` (0 when it was never called)."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def item_generator(*key: int) -> np.random.Generator:
    """Random numbers of one item, a function of the key, usually (seed, epoch, index)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(key))))


class GlobalBatchSampler:
    """Shuffled training batches; the last partial batch of an epoch is dropped.

    Args:
        size: number of items.
        batch_size: global batch, over all processes.
        rank: this process takes items rank, rank + world_size, ... of each batch.
        world_size: number of processes.
        seed: of the permutations, one per epoch.
        batches_per_epoch: cut epochs after so many batches.
        trained_batches: tells how many batches the training has had when an iteration begins, which then
            goes on from there. Without it, each iteration is the next whole epoch.

    Raises:
        ValueError: if the data hold less than one batch or ``world_size`` does not divide the batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        batches_per_epoch: int | None = None,
        trained_batches: Callable[[], int] | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                "data.init_args.batch_size is global and must be a positive multiple of the number of "
                f"devices, got {batch_size} for {world_size}"
            )
        if size < batch_size:
            raise ValueError(
                f"data.init_args.batch_size is {batch_size}, but the training data hold {size} items"
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size
        whole = size // batch_size
        self.batches_per_epoch = min(whole, batches_per_epoch or whole)
        self._trained_batches = trained_batches or self._begun_epochs
        self._epochs = 0

    def _begun_epochs(self) -> int:
        self._epochs += 1
        return (self._epochs - 1) * self.batches_per_epoch

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches(*divmod(self._trained_batches(), self.batches_per_epoch))

    def _batches(self, epoch: int, position: int) -> Iterator[list[tuple[int, int]]]:
        shuffle = torch.Generator().manual_seed(int(item_generator(self.seed, epoch).integers(2**62)))
        order = torch.randperm(self.size, generator=shuffle)
        for start in range(
            position * self.batch_size, self.batches_per_epoch * self.batch_size, self.batch_size
        ):
            batch = order[start : start + self.batch_size][self.rank :: self.world_size]
            yield [(epoch, i) for i in batch.tolist()]


class EvaluationBatchSampler:
    """Items in order, each exactly once over all processes, in equally many batches on each process.

    A last batch too small to give every process an item joins the one before it, so that sharded networks,
    whose forward is a collective, stay in step.
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
    """Tensors of equal length as a data set that fetches a whole batch at once. Every batch has ``index``
    (B,).

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


class TrainLoader(DataLoader[Any]):
    """A loader that goes on where the training stands, see :class:`GlobalBatchSampler`.

    Lightning takes a loader with a state for resumable; this state only notices that the data have changed.
    """

    batch_sampler: GlobalBatchSampler

    def state_dict(self) -> dict[str, int]:
        return {"items": self.batch_sampler.size, "batch_size": self.batch_sampler.batch_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if state != self.state_dict():
            rank_zero_warn(
                f"the checkpoint was trained on batches of {state['batch_size']} of {state['items']} items, "
                f"this run has {self.batch_sampler.batch_size} of {self.batch_sampler.size}: "
                "the order of the data changes"
            )


def train_loader(
    module: LightningDataModule,
    dataset: Dataset[Any],
    batch_size: int,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] = as_is,
) -> TrainLoader:
    """A resumable training loader of ``dataset``, whose items are asked for as (epoch, index)."""
    rank, world = _place(module)
    size: int = len(dataset)  # type: ignore[arg-type]
    limit, trained_batches = None, None
    if module.trainer is not None:
        limit = _batch_limit(module.trainer.limit_train_batches, size // batch_size)
        progress = module.trainer.fit_loop.epoch_loop.batch_progress.total
        trained_batches = partial(getattr, progress, "ready")
    sampler = GlobalBatchSampler(size, batch_size, rank, world, global_seed(), limit, trained_batches)
    return TrainLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else each epoch takes a number from the global generator
    )


def _batch_limit(limit: int | float | None, batches: int) -> int | None:
    """``trainer.limit_train_batches`` as a number of batches."""
    return int(limit * batches) if isinstance(limit, float) else limit


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
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate_fn,
        generator=torch.Generator(),
    )


Keys = Sequence[int] | Sequence[tuple[int, int]] | Sequence[int | tuple[int, int]]


def batch_keys(keys: Keys) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(epochs, indices) of a batch; evaluation asks by index alone, which is epoch 0."""
    pairs = np.array([k if isinstance(k, tuple) else (0, k) for k in keys], dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def item_seeds(seed: int, epochs: np.ndarray[Any, Any], index: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A well-mixed 64-bit number per item, a function of (seed, epoch, index); uint64 (B,).

    SplitMix64 (Steele et al. 2014), chained over the key, since a NumPy SeedSequence per item is slow.
    """
    state = np.zeros(len(index), dtype=np.uint64)
    for part in (np.full(len(index), seed), epochs, index):
        z = (state ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = z ^ (z >> np.uint64(31))
    return state
