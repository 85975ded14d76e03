"""Grey PNGs of ``zoo predict`` and sheets that show how they came about; the curves of ``zoo test``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing, plain
from zoo.file_names import new_file
from zoo.reports import save_png

Array = np.ndarray[Any, Any]
_RED = np.array([230, 40, 40], dtype=np.float64)


def min_max(saliency: Tensor) -> Array:
    """A map (H, W) in [0, 1] as the uint8 picture that is written: stretched from black to white.

    (x - min + 1e-8) / (max - min + 1e-8), as the official code. A map that spans less than one grey level is
    left as it is: nothing was found, and stretched it would be noise.
    """
    x = saliency.detach().double()
    low, high = x.min(), x.max()
    if high - low >= 1 / 255:
        x = (x - low + 1e-8) / (high - low + 1e-8)
    return (255 * x.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()


def overlay(picture: Array, saliency: Array) -> Array:
    """A picture uint8 (H, W, 3), red where it is salient and darker elsewhere."""
    from PIL import Image

    height, width = picture.shape[:2]
    weight = np.asarray(Image.fromarray(saliency).resize((width, height))) / 255
    shown = picture * (0.45 + 0.55 * weight[..., None])
    return (shown + 0.35 * weight[..., None] * (_RED - shown)).round().clip(0, 255).astype(np.uint8)


def write_curves(folder: Path, curves: Mapping[str, Mapping[str, Array]]) -> list[Path]:
    """``curves_test.csv``, a row for each set and threshold, and ``curves_test.png``, precision over recall.

    Args:
        folder: to write to.
        curves: test set -> ``precision``, ``recall`` and others, (256,) each, at thresholds 0..255.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, picture = folder / "curves_test.csv", folder / "curves_test.png"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["set", "threshold", *next(iter(curves.values()))])
        for name, columns in curves.items():
            rows.writerows([name, t, *values] for t, values in enumerate(zip(*columns.values(), strict=True)))
    with drawing(picture, figsize=(4.5, 4), dpi=100) as (_, axis):
        for name, columns in curves.items():
            axis.plot(columns["recall"], columns["precision"], label=plain(name))
        axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axis.legend()
    return [table, picture]


@dataclass
class SaliencyMaps:
    """Saliency maps of a batch.

    Attributes:
        maps: uint8 (H, W), at the pictures' own sizes.
        names: of the pictures; a ``/`` makes a folder.
        sheet: column title -> pictures, from the input over the attention of every stage to the map; None
            has no sheet.
        number: of the batch.
    """

    maps: list[Array]
    names: list[str]
    sheet: dict[str, list[Array]] | None
    number: int = 0

    def write(self, folder: Path) -> list[Path]:
        """``masks/NAME.png`` of each picture and, of the first batches, ``sheet.png`` in ``folder``."""
        masks = folder / "masks"
        for name, pixels in zip(self.names, self.maps, strict=True):
            save_png(new_file(masks, f"{name}.png"), pixels)
        paths = [masks] if self.number == 0 else []
        if self.sheet is not None:
            paths.append(folder / f"sheet{f'_{self.number}' if self.number else ''}.png")
            self._draw(paths[-1], self.sheet)
        return paths

    def _draw(self, path: Path, columns: dict[str, list[Array]]) -> None:
        rows = len(next(iter(columns.values())))
        height, width = next(iter(columns.values()))[0].shape[:2]
        size = (1.6 * len(columns), 1.6 * rows * height / width + 0.4)
        with drawing(path, rows, len(columns), figsize=size, squeeze=False, dpi=100) as (_, axes):
            for column, (title, pictures) in enumerate(columns.items()):
                for row, pixels in enumerate(pictures):
                    axis = axes[row, column]
                    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="nearest")
                    axis.set_xticks([])
                    axis.set_yticks([])
                    if row == 0:
                        axis.set_title(title, fontsize=7)
