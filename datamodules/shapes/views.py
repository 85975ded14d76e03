"""Pictures of a user as single views: grey, on white, of the side and crop of the released ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.loading.loaders import BatchItems
from datamodules.loading.pictures import SUFFIXES, read_picture
from datamodules.loading.sampling import batch_keys
from datamodules.shapes.voxels import VIEW_SIZE

CROP = 128
"""Side of what the network sees, the middle of a view of 137."""


def listed_pictures(path: Path) -> list[Path]:
    """A picture, or those of a folder to any depth, sorted.

    Raises:
        FileNotFoundError: for no such path, or none in it.
    """
    if not path.exists():
        raise FileNotFoundError(f"data.init_args.predict_files: no {path}")
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"data.init_args.predict_files: {path} holds no {', '.join(SUFFIXES)}")
    return found


def read_view(path: Path) -> Tensor:
    """A picture as a view, float32 (1, 128, 128) in [0, 1].

    Transparency becomes white, as in the release; the picture is made square with white, scaled to 137 and
    cropped to its middle. The object should fill it and stand on white.

    Raises:
        FileNotFoundError, ValueError: one line on a picture that cannot be read.
    """
    picture = read_picture(path)
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"{path} has more than 8 bits per channel; save it with 8")
    coloured = picture.convert("RGBA")
    side = max(coloured.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(coloured, ((side - coloured.width) // 2, (side - coloured.height) // 2))
    grey = square.convert("L").resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BICUBIC)
    start = (VIEW_SIZE - CROP) // 2
    cropped = np.asarray(grey, dtype=np.float32)[start : start + CROP, start : start + CROP] / 255
    return torch.from_numpy(cropped)[None]


class ViewItems(BatchItems):
    """Pictures as ``view`` (B, 1, 128, 128) with their ``index``.

    Those that cannot be read are left out, with the reasons in ``skipped``.

    Args:
        paths: of the pictures.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        views, rows, skipped = [], [], []
        for row in batch_keys(keys)[1].tolist():
            try:
                views.append(read_view(self.paths[row]))
                rows.append(row)
            except (OSError, ValueError) as error:
                skipped.append(str(error))
        batch = {
            "view": torch.stack(views) if views else torch.zeros(0, 1, CROP, CROP),
            "index": torch.tensor(rows, dtype=torch.int64),
        }
        return {**batch, "skipped": skipped} if skipped else batch  # type: ignore[dict-item]
