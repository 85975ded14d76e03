"""Batches of token sequences: rows of ids, padding, batches of like lengths with a bound on their tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.sampling import GlobalBatchSampler, batches_of_an_epoch, item_generator

Array = np.ndarray[Any, Any]


def padded(rows: Sequence[Sequence[int]], value: int, width: int = 0) -> Tensor:
    """Rows of ids as (B, T) int64, filled up with ``value`` on the right; T is the longest, or ``width``."""
    longest = max([width, *map(len, rows)])
    out = torch.full((len(rows), longest), value)
    for place, row in enumerate(rows):
        out[place, : len(row)] = torch.as_tensor(row, dtype=torch.int64)
    return out


class IdRows:
    """Rows of ids in one array: a list of lists takes ten times the memory."""

    def __init__(self, rows: Iterable[Sequence[int]]) -> None:
        lengths, parts = [], []
        for row in rows:
            lengths.append(len(row))
            parts.append(np.asarray(row, dtype=np.int32))
        self.ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        self.ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def __getitem__(self, index: int) -> list[int]:
        found: list[int] = self.ids[self.ends[index] : self.ends[index + 1]].tolist()
        return found

    @property
    def lengths(self) -> Array:
        return np.diff(self.ends)


class TokenBatchSampler:
    """Shuffled training batches of items of like lengths, each of at most ``tokens`` padded tokens.

    As :class:`datamodules.loading.sampling.GlobalBatchSampler`, a function of (seed, epoch, position). Items
    are sorted by length, those of the same length in another order each epoch, and cut at the same places, so
    that every epoch has as many batches; then the batches are shuffled. A process takes every world-th item
    of a batch: the global batches are the same for any number of processes that divides ``multiple``.

    Args:
        lengths: (N,) tokens of each item, at least 1.
        tokens: of a global batch, padding included: its items times the longest of them.
        rank: of this process.
        world_size: number of processes.
        seed: of the order.
        trained_batches: tells how many batches the training has had when an iteration begins, which then
            goes on from there. Without it, each iteration is the next whole epoch.
        batches_per_epoch: cut epochs after so many batches, or, of a float, that share of them.
        multiple: a batch has a multiple of so many items, but for the one of the shortest, which takes what
            is left over; up to ``world_size - 1`` of the shortest items are left out to share it evenly.

    Raises:
        ValueError: if ``multiple`` of the longest items have more than ``tokens``, ``world_size`` does not
            divide ``multiple``, or there are fewer items than processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        tokens: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        trained_batches: Callable[[], int] | None = None,
        batches_per_epoch: int | float | None = None,
        multiple: int = 8,
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.size = len(self.lengths)
        if self.size < world_size:
            raise ValueError(f"{self.size} items cannot be spread over {world_size} devices")
        if multiple % world_size:
            raise ValueError(
                f"batches of a multiple of {multiple} items do not divide by {world_size} devices"
            )
        longest = int(self.lengths.max())
        if longest * min(multiple, self.size) > tokens:
            raise ValueError(
                f"data.init_args.batch_tokens is {tokens:,}, but {multiple} items of {longest:,} tokens, the "
                f"longest, have {longest * multiple:,}: raise it, or cut the items"
            )
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.batch_size = tokens
        self._left_out = self.size % multiple % world_size
        self._cuts = self._cut(np.sort(self.lengths), tokens, multiple)
        whole = len(self._cuts) - 1
        self.batches_per_epoch = batches_of_an_epoch(whole, batches_per_epoch)
        # of a loader's length Lightning takes the share itself
        self._length = whole if isinstance(batches_per_epoch, float) else self.batches_per_epoch
        self._trained_batches = trained_batches or self._begun_epochs
        self._epochs = 0

    def _cut(self, lengths: Array, tokens: int, multiple: int) -> list[int]:
        """Where the sorted items are cut."""
        cuts = [self._left_out]
        rest = self.size % multiple
        for end in range(rest + multiple * (rest == 0), self.size + 1, multiple):
            begun = cuts[-1]
            if (end - begun) * lengths[end - 1] > tokens and end - multiple > begun:
                cuts.append(end - multiple)
        return [*cuts, self.size]

    def _begun_epochs(self) -> int:
        self._epochs += 1
        return (self._epochs - 1) * self.batches_per_epoch

    def plan(self, epoch: int) -> list[list[int]]:
        """The global batches of an epoch."""
        generator = item_generator(self.seed, epoch)
        order = np.lexsort((generator.random(self.size), self.lengths))
        batches = [order[a:b].tolist() for a, b in itertools.pairwise(self._cuts)]
        return [batches[i] for i in generator.permutation(len(batches))[: self.batches_per_epoch]]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, position = divmod(self._trained_batches(), self.batches_per_epoch)
        for batch in self.plan(epoch)[position:]:
            yield [(epoch, item) for item in batch[self.rank :: self.world_size]]


class LikeLengths(GlobalBatchSampler):
    """Shuffled training batches of a fixed number of items of like lengths, with little to pad.

    Items of so many batches, as the epoch's order has them, are sorted by length and cut into batches, which
    are shuffled: a function of (seed, epoch, position), as the parent's.

    Args:
        lengths: (N,) tokens of each item.
        batch_size: global batch.
        pool: batches that are sorted together.
        **options: of :class:`datamodules.loading.sampling.GlobalBatchSampler`, but for ``drop_last``.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, pool: int = 50, **options: Any) -> None:
        super().__init__(len(lengths), batch_size, **options)
        self.lengths, self.pool = np.asarray(lengths, dtype=np.int64), pool

    def order(self, epoch: int) -> Tensor:
        items = super().order(epoch).numpy()
        parts = [
            items[i : i + self.pool * self.batch_size]
            for i in range(0, len(items), self.pool * self.batch_size)
        ]
        alike = np.concatenate([p[np.argsort(self.lengths[p], kind="stable")] for p in parts])
        batches = alike.reshape(-1, self.batch_size)
        return torch.from_numpy(
            batches[item_generator(self.seed, epoch, 1).permutation(len(batches))].ravel()
        )


def by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Items in batches of like lengths, longest first: the order of a scoring, whose results are put back by
    their index."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
