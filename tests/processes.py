"""The command line in processes of its own, and what two of them left compared."""

from __future__ import annotations

import csv
import itertools
import os
from pathlib import Path
from typing import Any

import torch

import cli

CLI = Path(cli.__file__).resolve()


_started = itertools.count()


def environment() -> dict[str, str]:
    """This process's, without what Lightning left in it, and with a port of its own for several ranks.

    A port that Lightning finds free may be another's by the time that the ranks have imported torch. This one
    lies below those that systems deal out.
    """
    stale = ("PL_", "ZOO_", "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(stale)}
    path = os.pathsep.join([str(CLI.parent), *filter(None, [kept.get("PYTHONPATH")])])
    port = 20_000 + (7 * os.getpid() + next(_started)) % 12_000
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "MASTER_PORT": str(port)}


def of_its_own_size(command: list[str]) -> list[str]:
    """A command whose peak memory is its own: a child of this process would begin with this one's."""
    return ["sh", "-c", '"$@"; exit $?', "sh", *command]


def largest_difference(a: Any, b: Any) -> float:
    """Largest absolute difference between the tensors of two nested values of equal structure."""
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return max((largest_difference(a[k], b[k]) for k in a), default=0.0)
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return max((largest_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    assert a == b
    return 0.0


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))
