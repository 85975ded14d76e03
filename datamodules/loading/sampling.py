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
from typing import Any

import numpy as np
import torch


def global_seed() -> int:
    """The seed of ``seed_everything`` (0 when it was never called)."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def item_generator(*key: int) -> np.random.Generator:
    """Random numbers of one item, a function of the key, usually (seed, epoch, index)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(key))))


def batches_of_an_epoch(whole: int, limit: int | float | None) -> int:
    """Of ``whole`` batches so many, or, of a float, that share of them; at least one."""
    given = whole if limit is None else int(limit * whole) if isinstance(limit, float) else limit
    return min(whole, given or whole)


class GlobalBatchSampler:
    """Shuffled training batches.

    Args:
        size: number of items.
        batch_size: global batch, over all processes.
        rank: this process takes items rank, rank + world_size, ... of each batch.
        world_size: number of processes.
        seed: of the permutations, one per epoch.
        batches_per_epoch: cut epochs after so many batches, or, of a float, that share of them.
        trained_batches: tells how many batches the training has had when an iteration begins, which then
            goes on from there. Without it, each iteration is the next whole epoch.
        drop_last: leave out the last partial batch of an epoch; else it is kept, cut to as many items as the
            processes can share evenly.

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
        batches_per_epoch: int | float | None = None,
        trained_batches: Callable[[], int] | None = None,
        drop_last: bool = True,
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
        self.used = size - size % (batch_size if drop_last else world_size)  # items of an epoch
        whole = -(-self.used // batch_size)
        self.batches_per_epoch = batches_of_an_epoch(whole, batches_per_epoch)
        # of a loader's length Lightning takes the share itself
        self._length = whole if isinstance(batches_per_epoch, float) else self.batches_per_epoch
        self._trained_batches = trained_batches or self._begun_epochs
        self._epochs = 0

    def _begun_epochs(self) -> int:
        self._epochs += 1
        return (self._epochs - 1) * self.batches_per_epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches(*divmod(self._trained_batches(), self.batches_per_epoch))

    def order(self, epoch: int) -> torch.Tensor:
        """Items of an epoch, one after the other."""
        shuffle = torch.Generator().manual_seed(int(item_generator(self.seed, epoch).integers(2**62)))
        return torch.randperm(self.size, generator=shuffle)[: self.used]

    def _batches(self, epoch: int, position: int) -> Iterator[list[tuple[int, int]]]:
        order = self.order(epoch)
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
