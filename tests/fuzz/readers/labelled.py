"""Labelled images of one's own: npz files, stored and compressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.forked import Reader

from datamodules.images.labelled import read_labelled


def own(save: Callable[..., Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3)).astype(np.uint8)
        save(folder / "own.npz", image=pixels, label=np.arange(5))
        return folder / "own.npz"

    return make


READERS = [
    Reader(f"labelled images: npz, {name}", own(save), read_labelled)
    for name, save in (("stored", np.savez), ("compressed", np.savez_compressed))
]
