"""Rows of all processes, with their gradient: for losses in which the rows of a batch see each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


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
