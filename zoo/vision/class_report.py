"""Classes of pictures as ``zoo predict`` writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing, plain
from zoo.reports import PARTS, replace_file, write_scores, writing
from zoo.vision.pair_report import Pictures, thumbnails

NAMES = "classes.json"
_SHOWN = 10


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


@dataclass
class ClassPictures(ClassScores):
    """As :class:`ClassScores`, with the first pictures and where the network looks.

    They become ``scores.csv``, ``attention.png`` and, of known labels, ``reliability.png``.

    Attributes:
        pictures: uint8 (M, H, W, C).
        looked: rollout of their attention (M, h, w).
        shown: their places in the set, (M,).
    """

    pictures: Pictures
    looked: Tensor
    shown: Tensor

    @staticmethod
    def rows(index: Tensor) -> Tensor:
        """Of a batch, which rows are shown."""
        return (index < _SHOWN).nonzero()[:, 0]

    @classmethod
    def of(
        cls,
        probability: Tensor,
        batch: dict[str, Tensor],
        names: Sequence[str],
        rows: Tensor,
        looked: Tensor | None,
    ) -> ClassPictures:
        """Of a batch; ``looked`` is of ``rows``."""
        base = scored(probability, batch, names)
        maps = torch.zeros(0, 1, 1) if looked is None else looked.float().cpu()
        pictures = thumbnails(batch["image"][rows], 224)
        return cls(
            base.probability, base.label, base.index, base.names, pictures, maps, batch["index"][rows].cpu()
        )

    def write(self, folder: Path) -> list[Path]:
        """Parts of the files that :meth:`merge` makes."""
        super().write(folder)
        if len(self.shown):
            part = folder / PARTS / f"shown_{int(self.index[0]):09d}_{os.getpid()}.npy"
            with writing(part), part.open("wb") as file:
                for values in (self.pictures, self.looked.numpy(), self.shown.numpy()):
                    np.save(file, values)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``scores.csv``, ``attention.png`` and, of known labels, ``reliability.png``."""
        outputs = ClassScores.merge(folder)
        probability, label, _ = gathered_scores(folder)
        names = json.loads((folder / PARTS / NAMES).read_text())
        parts = []
        for path in sorted((folder / PARTS).glob("shown_*.npy")):
            with path.open("rb") as file:
                parts.append([np.load(file) for _ in range(3)])
        if parts:
            pictures, looked, shown = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = shown.argsort()
            outputs.append(folder / "attention.png")
            # places of the set are those of the table, all of whose rows are there
            _draw_attention(outputs[-1], pictures[order], looked[order], probability, label, names)
        if bool((label >= 0).any()):
            outputs.append(folder / "reliability.png")
            _draw_reliability(outputs[-1], probability[label >= 0], label[label >= 0])
        return outputs


def calibration(probability: Tensor, label: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor, float]:
    """Share, mean confidence and accuracy of each bin of equal width of the largest probability, and the
    expected calibration error: the mean of |accuracy - confidence| by share.

    Args:
        probability: (N, K).
        label: (N,).
        bins: their number.
    """
    confidence, predicted = probability.double().max(dim=1)
    # a confidence on an edge belongs to the bin below it
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    right = (predicted == label).double()
    count = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, torch.ones_like(right))
    sums = [torch.zeros(bins, dtype=torch.float64).index_add_(0, place, x) for x in (confidence, right)]
    mean, accuracy = (x / count.clamp(min=1) for x in sums)
    share = count / len(label)
    return share, mean, accuracy, float((share * (accuracy - mean).abs()).sum())


def _draw_reliability(path: Path, probability: Tensor, label: Tensor) -> None:
    share, confidence, accuracy, error = calibration(probability, label)
    bins = len(share)
    edges = np.arange(bins) / bins
    there = share.numpy() > 0
    with drawing(path, 2, 1, figsize=(5.2, 6), dpi=100, height_ratios=(3, 1), sharex=True) as (_, axes):
        axes[0].bar(
            edges[there], accuracy.numpy()[there], 1 / bins, align="edge", color="tab:blue", alpha=0.7,
            edgecolor="white", label="share that is right",
        )  # fmt: skip
        axes[0].plot(confidence.numpy()[there], accuracy.numpy()[there], "o", color="tab:orange", ms=4)
        axes[0].plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
        axes[0].set(ylabel="share that is right", ylim=(0, 1.02))
        axes[0].set_title(f"{len(label):,} pictures: expected calibration error {error:.4f}")
        axes[0].legend(loc="upper left", fontsize=8)
        axes[1].bar(edges, share.numpy(), 1 / bins, align="edge", color="tab:gray")
        axes[1].set(xlabel="probability of the predicted class", ylabel="share", xlim=(0, 1))


def _draw_attention(
    path: Path,
    pictures: Pictures,
    looked: np.ndarray[Any, Any],
    probability: Tensor,
    label: Tensor,
    names: Sequence[str],
) -> None:
    count = len(pictures)
    with drawing(path, 2, count, figsize=(1.3 * count + 0.4, 3.4), dpi=100, squeeze=False) as (_, axes):
        for i in range(count):
            best = int(probability[i].argmax())
            truth = "" if label[i] < 0 else f" ({plain(names[int(label[i])], 12)})"
            title = f"{plain(names[best], 12)}{truth}"
            axes[0, i].set_title(title, fontsize=8, color="black" if label[i] in (-1, best) else "tab:red")
            height = pictures[i].shape[0]
            for row in range(2):
                axes[row, i].imshow(pictures[i].squeeze(), cmap="gray", vmin=0, vmax=255)
                axes[row, i].axis("off")
            low, high = float(looked[i].min()), float(looked[i].max())
            if high - low > 1e-6 * max(high, 1e-12):  # a map that is level is not stretched
                axes[1, i].imshow(
                    looked[i], cmap="inferno", alpha=0.65, extent=(-0.5, height - 0.5, height - 0.5, -0.5)
                )
