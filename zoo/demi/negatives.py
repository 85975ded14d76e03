"""Where negatives come from: the batch of all processes, with its gradient, or a queue of earlier keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional


class _Gathered(torch.autograd.Function):
    """Rows of all processes in the order of the global batch, of which process r has r, r + world, ..."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The sum over processes, each of which has a loss with these rows; DDP divides by their number."""
        total = grads[0].clone()
        distributed.all_reduce(total)
        return total[distributed.get_rank() :: distributed.get_world_size()]


def gathered(rows: Tensor, world: int) -> Tensor:
    """Rows (B, E) of this process -> (world B, E), with gradient."""
    return rows if world == 1 else _Gathered.apply(rows)


def check_others(rows: int, world: int) -> None:
    """A batch whose rows are each other's negatives has two or more.

    Raises:
        ValueError: for one row in all.
    """
    if rows * world < 2:
        raise ValueError(
            "data.init_args.batch_size is 1, but the other rows of a batch are its negatives: set 2 or more"
        )


def partner_first(scores: Tensor, rank: int, world: int) -> Tensor:
    """Scores of local rows with all keys, (B, world B), with each row's own key moved to column 0."""
    rows = torch.arange(len(scores), device=scores.device)
    own = rank + world * rows
    others = torch.ones_like(scores, dtype=torch.bool)
    others[rows, own] = False
    return torch.cat([scores[rows, own, None], scores[others].view(len(scores), -1)], dim=1)


class KeyQueue(nn.Module):
    """The keys of the last batches (He et al. 2020), first random unit vectors, in the state of the module.

    Args:
        size: number of keys, a multiple of the global batch.
        width: of a key.
    """

    keys: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.register_buffer("keys", functional.normalize(torch.randn(size, width, generator=g), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put the keys of all processes in the place of the oldest; after the loss that they are partners in.

        Raises:
            ValueError: for a batch that does not divide the queue.
        """
        size, count = len(self.keys), len(keys)
        if size % count:
            raise ValueError(
                f"model.init_args.queue_size is {size}, which the global batch of {count} "
                "(data.init_args.batch_size) does not divide"
            )
        start = int(self.place)
        self.keys[start : start + count] = keys.to(self.keys)
        self.place.fill_((start + count) % size)
