"""Sheets that a person looks at: guide, mask, variant, label, hardness; and the rounds of a run."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.actgen.making import Batch
from zoo.drawing import drawing
from zoo.reports import PARTS, write_scores, writing

_SHOWN = 24
_IN_A_ROW = 8


@dataclass
class Variants:
    """Images, the classes that a classifier gives them, and a variant of each.

    ``scores.csv`` has the classes; ``variants.png`` is a sheet of the first 24: guide, mask where there is
    one, variant, its label and hardness; ``variants.npz`` has all variants and ``variants.csv`` a row each.

    Attributes:
        guides: (B, C, S, S) in [0, 1].
        labels: int64 (B,).
        index: places in the whole set (B,).
        probability: of each class (B, K).
        class_names: K.
        made: the variants; None of a classifier that makes none.
    """

    guides: Tensor
    labels: Tensor
    index: Tensor
    probability: Tensor
    class_names: Sequence[str]
    made: Batch | None = None

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.npz"
        values: dict[str, Any] = {
            "guides": self.guides.numpy(),
            "labels": self.labels.numpy(),
            "index": self.index.numpy(),
            "probability": self.probability.numpy(),
            "class_names": np.array(list(self.class_names)),
        }
        if self.made is not None:
            values |= {
                "images": self.made.images.numpy(),
                "masks": self.made.masks.numpy(),
                "hardness": self.made.hardness.numpy(),
                "predicted": self.made.predicted.numpy(),
                "judged": self.made.judged.numpy(),
                "prompts": np.array(self.made.prompts),
            }
        with writing(part):
            np.savez(part, **values)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """The files, of all parts in the order of ``index``."""
        parts = [dict(np.load(p)) for p in sorted((folder / PARTS).glob("*.npz"))]
        if not parts:
            return []
        names = [str(n) for n in parts[0]["class_names"]]
        order = np.argsort(np.concatenate([p["index"] for p in parts]))
        keys = [k for k in parts[0] if k != "class_names"]
        all_ = {k: np.concatenate([p[k] for p in parts])[order] for k in keys}
        scores = folder / "scores.csv"
        labels = torch.from_numpy(all_["labels"])
        write_scores(scores, torch.from_numpy(all_["probability"]), names, all_["index"].tolist(), labels)
        if "images" not in all_:
            return [scores]
        return [scores, *_write_variants(folder, all_, names)]


def _write_variants(folder: Path, held: Mapping[str, Any], names: Sequence[str]) -> list[Path]:
    table, array, sheet = (folder / f"variants.{end}" for end in ("csv", "npz", "png"))
    with writing(table), table.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["name", "label", "hardness", "predicted", "judged", "prompt"])
        for i, place in enumerate(held["index"].tolist()):
            label, predicted, judged = (int(held[k][i]) for k in ("labels", "predicted", "judged"))
            said = "" if judged < 0 else names[judged]
            hardness = f"{float(held['hardness'][i]):.6f}"
            rows.writerow([place, names[label], hardness, names[predicted], said, str(held["prompts"][i])])
    with writing(array):
        np.savez(array, image=held["images"], label=held["labels"])
    shown = [f"{names[int(y)]}: {h:.2f}" for y, h in zip(held["labels"], held["hardness"], strict=True)]
    draw_sheet(sheet, held["guides"], held["masks"], held["images"], shown)
    return [sheet, table, array]


def draw_sheet(
    path: Path, guides: Any, masks: Any, images: Any, captions: Sequence[str], title: str | None = None
) -> None:
    """Columns of guide, mask and variant, eight beside each other; a mask that is 1 everywhere is left out.

    Args:
        path: of the picture.
        guides: (N, C, S, S) in [0, 1].
        masks: (N, 1, s, s); values above 1 are shown as 1.
        images: (N, C, S, S) in [0, 1].
        captions: below each variant.
        title: above all.
    """
    many = min(len(images), _SHOWN)
    masked = not np.allclose(np.asarray(masks[:many]), 1.0)
    kinds = [("guide", guides), *([("mask", masks)] if masked else []), ("variant", images)]
    blocks = -(-many // _IN_A_ROW)
    rows, columns = blocks * len(kinds), min(many, _IN_A_ROW)
    size = (1.15 * columns + 0.6, 1.2 * rows + (0.3 if title else 0))
    with drawing(path, rows, columns, dpi=100, figsize=size, squeeze=False) as (figure, axes):
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        for i in range(many):
            block, column = divmod(i, _IN_A_ROW)
            for k, (kind, held) in enumerate(kinds):
                axis = axes[block * len(kinds) + k, column]
                picture = np.asarray(held[i]).clip(0, 1)
                grey = picture.shape[0] == 1
                shown = picture[0] if grey else picture.transpose(1, 2, 0)
                colours = "viridis" if kind == "mask" else "gray"
                axis.imshow(shown, cmap=colours if grey else None, vmin=0, vmax=1, interpolation="nearest")
                if column == 0:
                    axis.set_ylabel(kind, fontsize=9)
                if kind == "variant":
                    axis.set_xlabel(captions[i], fontsize=8)
        if title:
            figure.suptitle(title, fontsize=10)


def draw_rounds(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Held-out error, hardness of what was made, and images so far, over the epochs.

    Args:
        path: of the picture.
        rows: of each round, in order.
    """
    epochs = [r["epoch"] for r in rows]
    with drawing(path, 1, 3, dpi=100, figsize=(11, 3)) as (_, axes):
        panels = (
            ("held_out_error", "held-out error (%)", 100),
            ("hardness", "loss on new images (nats)", 1),
            ("generated", "images generated so far", 1),
        )
        for axis, (key, label, factor) in zip(axes, panels, strict=True):
            values = [np.nan if r[key] is None else factor * r[key] for r in rows]
            axis.plot(epochs, values, "o-", ms=3)
            axis.set(xlabel="epoch", ylabel=label)
            axis.set_ylim(bottom=0)


def to_pixels(images: Tensor) -> np.ndarray[Any, Any]:
    """[0, 1] (B, C, S, S) -> uint8 (B, S, S, C), rounded."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
