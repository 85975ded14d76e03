"""Sums over processes, which process this is, and a network that is evaluated for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


def several() -> bool:
    """Whether there is more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def place() -> tuple[int, int]:
    """(rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if several() else (0, 1)


@torch.no_grad()
def total(value: Tensor) -> Tensor:
    """The sum over processes, a constant."""
    value = value.detach()
    if not several():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def gathered(value: Any) -> list[Any]:
    """What each process has, in the order of their ranks."""
    if not several():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Without dropout, for a while."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
