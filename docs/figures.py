"""Draws the figures of the docs: `python docs/figures.py masks`, `training RUN`, `rounds FOLDER NAME`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from zoo.dtr.routing import random_masks, task_masks

IMAGES = Path(__file__).parent / "pages" / "img"


def masks(channels: int = 1024) -> None:
    """The task masks of a DiT-L block for three settings, and random routing."""
    import torch

    tables = {
        "alpha 4, beta 0.8 (paper)": task_masks(channels),
        "alpha 1, beta 0.8": task_masks(channels, alpha=1),
        "alpha 2, beta 0.5": task_masks(channels, alpha=2, beta=0.5),
        "random (R-TR), beta 0.8": random_masks(channels, 1000, 0.8, torch.Generator().manual_seed(0)),
    }
    figure, axes = plt.subplots(1, len(tables), figsize=(13, 3.4), sharey=True, layout="constrained")
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        axis.imshow(table.numpy(), aspect="auto", cmap="Greys_r", interpolation="nearest")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("channel")
    axes[0].set_ylabel("timestep (999 is pure noise)")
    figure.savefig(IMAGES / "dtr_masks.png", dpi=80)


def training(run: str) -> None:
    """Preview sheets of one run, in order of training; the first two samples of each class."""
    sheets = sorted((Path(run) / "samples").glob("samples_step=*.png"))
    figure, axes = plt.subplots(1, len(sheets), figsize=(2.6 * len(sheets), 3), layout="constrained")
    for axis, path in zip(np.atleast_1d(axes), sheets, strict=True):
        axis.imshow(np.asarray(Image.open(path)))
        axis.set_title(f"step {int(path.stem.rpartition('=')[2]):,}", fontsize=10)
        axis.axis("off")
    figure.savefig(IMAGES / f"{Path(run).parent.name}_training.png", dpi=80)


def rounds(folder: str, name: str) -> None:
    """F1 over labelled words of a comparison's arms with every seed, and what each of them asks: `python
    docs/figures.py rounds RESULTS_FOLDER/CLAIM active_ner_ncbi_disease`."""
    import json

    from zoo.ner.report import draw_comparison

    found: dict[str, list[list[dict[str, object]]]] = {}
    for path in sorted(Path(folder).glob("runs/*/seed_*/*/version_*/rounds.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if len(rows) > 1:
            found.setdefault(path.parents[3].name, []).append(rows)
    draw_comparison(IMAGES / f"{name}.png", found)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    globals()[sys.argv[1]](*sys.argv[2:])
