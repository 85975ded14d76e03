"""Rows of a global batch, and gradients of one network among several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

from zoo.nn.processes import place, several


def own_rows(draws: Tensor, dim: int = 1) -> Tensor:
    """This process's rows, along ``dim``, of draws for the global batch: as the data sampler deals."""
    rank, world = place()
    return draws.movedim(dim, 0)[rank::world].movedim(0, dim)


def global_rows(states: Tensor) -> tuple[int, int]:
    """(rows, longest source) of the global batch whose part on this process is ``states`` (B, S, ...)."""
    rows, longest = states.shape[:2]
    if not several():
        return rows, longest
    count, most = (torch.tensor([n], device=states.device) for n in (rows, longest))
    dist.all_reduce(count)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(count), int(most)


def averaged_gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """d loss / d parameters and of nothing else, the mean over processes; 0 where a loss does not depend on
    one."""
    found: list[Tensor] = [torch.zeros_like(p) for p in parameters]
    if loss.requires_grad:
        given = torch.autograd.grad(loss, parameters, allow_unused=True)
        found = [f if g is None else g for f, g in zip(found, given, strict=True)]
    if several():
        flat = torch.cat([g.flatten() for g in found])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([g.numel() for g in found])
        found = [part.view_as(g) for part, g in zip(parts, found, strict=True)]
    return found


def set_gradients(optimizer: torch.optim.Optimizer, loss: Tensor, limits: Sequence[float | None]) -> None:
    """The gradients of an optimiser's parameters, clipped to each norm that is given, one after the other.

    ``torch.autograd.grad`` reaches no other parameter, so that nothing leaks into the other networks, and
    gradients never add up over steps.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    for parameter, gradient in zip(parameters, averaged_gradients(loss, parameters), strict=True):
        parameter.grad = gradient
    for limit in limits:
        if limit is not None:
            nn.utils.clip_grad_norm_(parameters, limit)
