"""Tiny twins of the released saliency sets: their folders and names with made pictures, never called data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# name -> folder, pictures, masks (of the released archives)
LAYOUTS = {
    "duts_tr": ("DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask"),
    "duts_te": ("DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask"),
    "msra_b": ("MSRA-B", ".", "."),
    "ecssd": ("ECSSD", "images", "ground_truth_mask"),
    "hku_is": ("HKU-IS", "imgs", "gt"),
    "dut_omron": ("DUT-OMRON", "DUT-OMRON-image", "pixelwiseGT-new-PNG"),
    "pascal_s": ("PASCAL-S", "datasets/imgs/pascal", "datasets/masks/pascal"),
    "sod": ("SOD", "Imgs", "GT"),
    "sed2": ("SED2", "src_color", "ground_truth"),
}


def disc(height: int, width: int, seed: int) -> tuple[Image.Image, Image.Image]:
    """A bright disc on noise, and its mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    radius = min(height, width) * rng.uniform(0.2, 0.35)
    inside = (y - height * rng.uniform(0.4, 0.6)) ** 2 + (x - width * rng.uniform(0.4, 0.6)) ** 2 < radius**2
    pixels = rng.integers(0, 120, (height, width, 3))
    pixels[inside] += rng.integers(60, 130, 3)
    return Image.fromarray(pixels.astype(np.uint8)), Image.fromarray(inside.astype(np.uint8) * 255)


def picture_of(stem: str) -> tuple[Image.Image, Image.Image]:
    """Picture and mask that every twin has under this stem."""
    i = (int(stem) - 2) // 3
    return disc(64 + 3 * (i % 3), 72 - 5 * (i % 2), i)


def fake_saliency(root: Path, name: str, count: int = 4, official: bool = False) -> Path:
    """Make the twin of a set under ``root``; returns ``root``.

    Args:
        official: ``imgs`` and ``gts``, as the official code has every set.
    """
    folder, images, masks = LAYOUTS[name]
    pictures = root / folder / ("imgs" if official else images)
    answers = root / folder / ("gts" if official else masks)
    stems = [f"{3 * i + 2}" for i in range(count)]  # 2, 5, 8, 11: not the order of their names
    for stem in stems:
        picture, mask = picture_of(stem)
        for path, image in ((pictures / f"{stem}.jpg", picture), (answers / f"{stem}.png", mask)):
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    place = root / folder
    if name == "msra_b":
        lists = {"train.lst": stems[: count // 2 + 1], "val.lst": stems[count // 2 + 1 :], "test.lst": stems}
        for file, members in lists.items():
            (place / file).write_text("".join(f"{s}.jpg {s}.png\n" for s in members))
    if name == "hku_is":
        from scipy.io import savemat

        for part, members in (("train", stems[:2]), ("val", stems[2:3]), ("test", stems[3:])):
            cells = np.array([[f"{s}.jpg"] for s in members], dtype=object)
            savemat(place / f"{part}ImgSet.mat", {f"{part}ImgSet": cells})
    return root


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The set that trains; the backbones as they are, without their weights."""
    data, model = config["data"]["init_args"], config["model"]["init_args"]
    fake_saliency(root, "msra_b" if "MSRA-B" in data["train"] else data["train"])
    flags: dict[str, Any] = {"data.init_args.num_workers": 0, "model.init_args.backbone_weights": None}
    flags |= {} if data["size"] is None else {"data.init_args.batch_size": 2, "data.init_args.size": 64}
    flags |= {"model.init_args.scales": [64, 96]} if "scales" in model else {}
    return {**flags, "trainer.accumulate_grad_batches": 1}


TWINS = {"datamodules.Saliency": _twin}
