"""The routing tables inside checkpoints of DTR's official code, turned back into alpha and beta.

The official code stores a (T, D) table of 0 and 1 in every block, ``blocks.{i}.routing._unit_mapping``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.dtr.routing import TaskRouting, task_masks, window_starts

_KEY = re.compile(r"blocks\.(\d+)\.routing\._unit_mapping")


def official_tables(routing: TaskRouting) -> dict[str, Tensor]:
    """The tables of a routing under their official keys, float32; empty without routing."""
    if routing.kind == "none":
        return {}
    if routing.kind == "random":
        tables = list(routing.masks.cpu().float().unbind(0))
    else:  # one tensor in all places: torch.save stores it once
        table = task_masks(routing.channels, routing.timesteps, routing.alpha, routing.beta).float()
        tables = [table] * routing.blocks
    return {f"blocks.{i}.routing._unit_mapping": table for i, table in enumerate(tables)}


def pop_tables(state: dict[str, Tensor], depth: int) -> list[Tensor]:
    """Take the tables out of an official state dict: one (T, D) bool per block, none of a plain DiT.

    Raises:
        ValueError: if blocks lack one, or one is not a table of 0 and 1.
    """
    tables = {int(m[1]): state.pop(k) for k in list(state) if (m := _KEY.fullmatch(k))}
    if tables and set(tables) != set(range(depth)):
        raise ValueError(f"{len(tables)} routing tables for {depth} blocks")
    for i, table in tables.items():
        if table.ndim != 2 or table.shape != tables[0].shape or not ((table == 0) | (table == 1)).all():
            raise ValueError(f"the routing table of block {i} is not a (T, D) table of 0 and 1")
    return [tables[i].bool() for i in range(len(tables))]


def routing_arguments(tables: list[Tensor], given: dict[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
    """Constructor arguments that reproduce the tables, and the masks (depth, T, D) themselves for R-TR.

    Equal tables whose rows are windows are DTR and must be those of some alpha and beta; all others are R-TR.

    Args:
        tables: of each block, (T, D) bool.
        given: ``alpha`` and ``beta`` where the user says them; they are checked, not trusted.

    Raises:
        ValueError: for rows of unequal sums, and for sliding windows that no alpha gives.
    """
    if not tables:
        return {}, None
    timesteps, channels = tables[0].shape
    counts = torch.stack([t.sum(dim=1) for t in tables])
    k = int(counts[0, 0])
    if k < 1 or not (counts == k).all():
        raise ValueError(
            f"rows of the routing tables have {int(counts.min())} to {int(counts.max())} channels; "
            "DTR and R-TR have as many in each row"
        )
    beta = _simplest(
        k / channels, (k + 1) / channels, given.get("beta", 0.8), lambda b: int(channels * b) == k
    )
    if beta is None:
        raise ValueError(f"no beta gives the {k} of {channels} channels of the routing tables")
    found = {"timesteps": timesteps, "beta": beta}
    starts = tables[0].int().argmax(dim=1)
    c = torch.arange(channels)
    windows = (c >= starts[:, None]) & (c < starts[:, None] + k)
    if any(not torch.equal(table, windows) for table in tables):
        return {"routing": "random"} | found, torch.stack(tables)
    alpha = alpha_of(starts, channels, beta, given.get("alpha"))
    if alpha is None:
        asked = f"alpha={given['alpha']}" if "alpha" in given else "no alpha"
        middle = timesteps // 2
        raise ValueError(
            f"the routing tables slide a window of {k} of {channels} channels that starts at "
            f"{int(starts[middle])} for t = {middle}, which {asked} gives: it is not DTR's routing"
        )
    return {"routing": "dtr"} | found | {"alpha": alpha}, None


def alpha_of(starts: Tensor, channels: int, beta: float, given: float | None = None) -> float | None:
    """The simplest alpha whose windows start at ``starts`` (T,), or None; ``given`` allows only that one.

    Each row says s - 1/2 <= x^alpha (C - k) <= s + 1/2 with x = t / (T - 1): an interval of alpha. The answer
    lies in all of them and is checked against the whole table.
    """

    def reproduces(alpha: float) -> bool:
        return alpha > 0 and torch.equal(window_starts(channels, len(starts), alpha, beta), starts)

    if given is not None:
        return given if reproduces(given) else None
    span = channels - int(channels * beta)
    low, high = 0.0, math.inf
    if span and len(starts) > 2:
        log_x = torch.log(torch.arange(1, len(starts) - 1, dtype=torch.float64) / (len(starts) - 1))
        s = starts[1:-1].double()
        low = max(low, float((torch.log((s + 0.5) / span) / log_x).max()))
        high = float((torch.log((s - 0.5).clamp(min=0) / span) / log_x).min())
    return _simplest(low, min(high, low + 10), 4.0, reproduces)


def _simplest(low: float, high: float, first: float, fits: Callable[[float], bool]) -> float | None:
    """``first`` if it fits, else the number with the fewest decimals in [low, high] that does."""
    if fits(first):
        return first
    for digits in range(9):
        unit = 10.0**-digits
        for number in (math.ceil(low / unit), math.floor(high / unit)):
            value = round(number * unit, digits)
            if low <= value <= high and fits(value):
                return value
    return None
