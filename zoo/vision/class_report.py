"""Classes of pictures as ``zoo predict`` writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.reports import PARTS, replace_file, write_scores

NAMES = "classes.json"


@dataclass
class ClassScores:
    """Probabilities of classes.

    They become ``scores.csv``: name, label, prediction, score and each class's probability.

    Attributes:
        probability: (B, K).
        label: int64 (B,), -1 where unknown.
        index: int64 (B,) position of each in the whole set.
        names: of the K classes.
    """

    probability: Tensor
    label: Tensor
    index: Tensor
    names: Sequence[str]

    def write(self, folder: Path) -> list[Path]:
        """A part of the file that :meth:`merge` makes."""
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.npz"
        values = {k: getattr(self, k).numpy() for k in ("probability", "label", "index")}
        np.savez(part, **values)
        replace_file(folder / PARTS / NAMES, json.dumps(list(self.names)))
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``scores.csv`` in the order of ``index``."""
        probability, label, index = gathered_scores(folder)
        names = json.loads((folder / PARTS / NAMES).read_text())
        table = folder / "scores.csv"
        write_scores(table, probability, names, index.tolist(), label)
        return [table]


def gathered_scores(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, labels and places of all parts, in order."""
    parts = [np.load(p) for p in sorted((folder / PARTS).glob("*.npz"))]
    columns = [
        torch.from_numpy(np.concatenate([p[k] for p in parts])) for k in ("probability", "label", "index")
    ]
    order = columns[2].argsort()
    probability, label, index = (column[order] for column in columns)
    return probability, label, index


def scored(probability: Tensor, batch: dict[str, Tensor], names: Sequence[str]) -> ClassScores:
    """The report of a batch."""
    return ClassScores(probability.float().cpu(), batch["label"].cpu(), batch["index"].cpu(), names)
