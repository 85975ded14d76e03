"""What predict leaves of a masked autoencoder: pictures, what the encoder saw of them, what was drawn."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from zoo.reports import PARTS, image_grid, save_png, writing
from zoo.vision.pair_report import Pictures, thumbnails

_SHOWN, _ACROSS = 24, 4


@dataclass
class Reconstructions:
    """Triples of pictures.

    They become ``reconstructions.png``: of each of the first 24 the picture, what is seen of it, and what the
    network makes of that, four triples a row; and ``errors.csv``.

    Attributes:
        picture, masked, drawn: uint8 (B, H, W, 3), of those that are shown.
        error: masked error of each item, (N,).
        index: place in the set, (N,).
    """

    picture: Pictures
    masked: Pictures
    drawn: Pictures
    error: Tensor
    index: Tensor

    @classmethod
    def of(
        cls, image: Tensor, masked: Tensor, drawn: Tensor, error: Tensor, index: Tensor
    ) -> Reconstructions:
        """Of pictures (N, C, S, S) in [0, 1]."""
        rows = (index < _SHOWN).nonzero()[:, 0]
        pictures = [thumbnails(x[rows], 224) for x in (image, masked, drawn)]
        three = [np.repeat(p, 3, axis=3) if p.shape[3] == 1 else p for p in pictures]
        return cls(three[0], three[1], three[2], error.float().cpu(), index.cpu())

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.npz"
        with writing(part):
            np.savez(
                part, picture=self.picture, masked=self.masked, drawn=self.drawn,
                error=self.error.numpy(), index=self.index.numpy(),
            )  # fmt: skip
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``reconstructions.png`` and ``errors.csv``."""
        parts = [np.load(p) for p in sorted((folder / PARTS).glob("*.npz"))]
        index, error = (np.concatenate([p[k] for p in parts]) for k in ("index", "error"))
        order = index.argsort()
        table = folder / "errors.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["index", "masked_error"])
            writer.writerows([int(i), f"{e:.6f}"] for i, e in zip(index[order], error[order], strict=True))
        # rows that are shown are the small numbers of each part, in the order that the part has them
        place = np.concatenate([p["index"][p["index"] < _SHOWN] for p in parts]).argsort()
        columns = [np.concatenate([p[k] for p in parts])[place] for k in ("picture", "masked", "drawn")]
        if not len(columns[0]):
            return [table]
        triples = np.stack(columns, axis=1)  # (M, 3, H, W, 3)
        sheet = folder / "reconstructions.png"
        save_png(sheet, image_grid(triples.reshape(-1, *triples.shape[2:]), 3 * _ACROSS))
        return [sheet, table]
