"""What a person looks at: previews while training, predictions on disk."""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor


@dataclass
class GeneratedImages:
    """Images made by a generative model.

    Attributes:
        images: (B, C, H, W) float in [-1, 1]; with C other than 1 or 3 they are latents.
        labels: (B,) requested classes.
        index: (B,) position of each in the whole set.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    @property
    def viewable(self) -> bool:
        """Whether these are pixels, not latents."""
        return self.images.shape[1] in (1, 3)


def to_uint8(images: Tensor) -> np.ndarray[Any, Any]:
    """[-1, 1] (B, C, H, W) -> uint8 (B, H, W, 3), clamp(127.5 x + 128, 0, 255) as ADM and DiT write them."""
    pixels = (127.5 * images.float() + 128).clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def image_grid(
    pixels: np.ndarray[Any, Any], columns: int | None = None, min_side: int = 480
) -> np.ndarray[Any, Any]:
    """uint8 (B, H, W, 3) -> one (H', W', 3) sheet, row by row, small images enlarged by a whole factor."""
    count, height, width, _ = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    gap = 1
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 40, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = image
    factor = max(1, math.ceil(min_side / max(sheet.shape[:2])))
    return sheet.repeat(factor, axis=0).repeat(factor, axis=1)


def save_png(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """Write uint8 (H, W, 3) as PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class Previews(Callback):
    """At each validation, pictures of the module's ``preview(count)`` in ``samples/`` of the run's folder.

    Modules without ``preview`` are left alone. Runs inside the validation, hence with averaged weights, on
    all ranks.

    Args:
        count: number of images; 0 switches previews off.
    """

    def __init__(self, count: int = 100) -> None:
        if count < 0:
            raise ValueError(f"previews.count must not be negative, got {count}")
        self.count = count
        self.latest: Path | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        preview = getattr(pl_module, "preview", None)
        if not self.count or preview is None or trainer.sanity_checking or trainer.log_dir is None:
            return
        for name, result in preview(self.count).items():
            if not result.viewable:
                continue
            path = Path(trainer.log_dir) / "samples" / f"{name}_step={trainer.global_step:08d}.png"
            if trainer.is_global_zero:
                save_png(path, image_grid(to_uint8(result.images)))
            self.latest = path


class PredictionWriter(BasePredictionWriter):
    """Writes predictions batch by batch, then merges them.

    Generated images become ``samples.npz`` in ADM's format (``arr_0`` uint8 (N, H, W, 3), ``arr_1`` labels)
    and ``samples.png``, a sheet of the first 100; latents become ``latents.npz`` (float32 (N, C, S, S)).
    Other predictions write themselves: ``write(folder)`` returns the files that it made.
    """

    GRID = 100

    def __init__(self) -> None:
        super().__init__(write_interval="batch")
        self.outputs: list[Path] = []
        self._folder: Path | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "predictions"
        if trainer.is_global_zero:
            shutil.rmtree(self._folder / "parts", ignore_errors=True)
            (self._folder / "parts").mkdir(parents=True)
        trainer.strategy.barrier("zoo.predictions")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert self._folder is not None
        if hasattr(prediction, "write"):  # a dataclass that knows its own files
            self.outputs += prediction.write(self._folder)
            return
        if not isinstance(prediction, GeneratedImages):
            raise TypeError(
                f"{type(pl_module).__name__}.predict_step returned {type(prediction).__name__}, "
                "which has no writer"
            )
        values = to_uint8(prediction.images) if prediction.viewable else prediction.images.numpy()
        part = self._folder / "parts" / f"{trainer.global_rank}_{batch_idx}.npz"
        np.savez(part, values=values, labels=prediction.labels.numpy(), index=prediction.index.numpy())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier("zoo.predictions")
        if not trainer.is_global_zero or self._folder is None:
            return
        parts = sorted((self._folder / "parts").glob("*.npz"))
        if parts:
            self.outputs = merge_parts(parts, self._folder, self.GRID)
        shutil.rmtree(self._folder / "parts")


def merge_parts(parts: Sequence[Path], folder: Path, grid: int) -> list[Path]:
    """Merge part files into one npz in order of ``index``; a memory map spares the RAM."""
    indices = [np.load(p)["index"] for p in parts]
    total = sum(map(len, indices))
    rank_of = np.empty(int(max(i.max() for i in indices)) + 1, dtype=np.int64)
    rank_of[np.sort(np.concatenate(indices))] = np.arange(total)
    first = np.load(parts[0])["values"]
    array_path = folder / "arr_0.npy"
    values = np.lib.format.open_memmap(
        array_path, mode="w+", dtype=first.dtype, shape=(total, *first.shape[1:])
    )
    labels = np.empty(total, dtype=np.int64)
    for part, index in zip(parts, indices, strict=True):
        with np.load(part) as data:
            values[rank_of[index]], labels[rank_of[index]] = data["values"], data["labels"]
    values.flush()
    pixels = first.dtype == np.uint8
    outputs = [folder / ("samples.npz" if pixels else "latents.npz")]
    np.save(folder / "arr_1.npy", labels)
    with zipfile.ZipFile(outputs[0], "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in ("arr_0.npy", "arr_1.npy"):
            archive.write(folder / name, name)
            (folder / name).unlink()
    if pixels:
        outputs.append(folder / "samples.png")
        save_png(outputs[1], image_grid(np.asarray(values[:grid])))
    return outputs
