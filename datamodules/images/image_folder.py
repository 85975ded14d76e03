"""Pictures in class folders, as ImageNet comes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.loading.arguments import data_folder
from datamodules.loading.loaders import BatchItems, SplitModule, TensorItems, as_is, place
from datamodules.loading.pictures import SUFFIXES, read_rgb
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.sampling import batch_keys, global_seed, item_seeds
from datamodules.loading.variants import Uses, check_variants

_WANTED = "root/CLASS/NAME.jpg, one folder per class (ImageNet: train/n01440764/n01440764_10026.JPEG)"


def centre_crop(image: Any, size: int) -> np.ndarray[Any, Any]:
    """ADM's centre crop (``center_crop_arr`` of guided-diffusion) of an RGB image, uint8 (size, size, 3).

    Halved with BOX while the shorter side is at least 2 size, then BICUBIC so that it is size, then cropped.
    """
    from PIL.Image import Resampling

    while min(image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), resample=Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), resample=Resampling.BICUBIC)
    pixels = np.asarray(image)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


class FolderImages(BatchItems):
    """Pictures of class folders in sorted order, the labels being the places of the sorted folder names.

    Folders are searched to any depth; names that begin with a dot are left out. Files of other kinds are
    skipped with a warning that counts them. A flip is a function of (seed, epoch, index).

    Args:
        root: folder of the class folders.
        size: side of the crop.
        flip: mirror half of the pictures; only where items are asked for as (epoch, index).
        one_class: all pictures under ``root`` are of class 0, whatever their folder.
        upright: turn pictures as their EXIF orientation says.

    Raises:
        FileNotFoundError: for a missing root, no class folder, or a class folder without pictures.
    """

    def __init__(
        self, root: Path, size: int, flip: bool = True, one_class: bool = False, upright: bool = False
    ) -> None:
        if not root.is_dir():
            raise FileNotFoundError(
                f"no pictures at {root}: expected {_WANTED}; set data.init_args.root (or the environment "
                "variable ZOO_DATA) to where they are"
            )
        self.root, self.size, self.flip, self.upright = root, size, flip, upright
        names = _subfolders(root)
        self.classes = ["all"] if one_class else names
        if not self.classes:
            raise FileNotFoundError(f"no class folders in {root}: expected {_WANTED}")
        paths, labels, strange = [], [], []
        for label, name in enumerate(["."] if one_class else names):
            found, others = _pictures(root, name)
            if not found:
                raise FileNotFoundError(
                    f"class folder {root / name} holds no pictures ({', '.join(SUFFIXES)}); without it the "
                    "labels of the others would shift: fill it or take it away"
                )
            paths += found
            labels += [label] * len(found)
            strange += others
        if strange:
            rank_zero_warn(
                f"{root}: {len(strange):,} files that are no pictures are skipped, for example {strange[0]}"
            )
        # Bytes in one array, since a million Python strings are copied into every worker that touches them.
        self.paths = np.array([os.fsencode(p) for p in paths])
        self.labels = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """SHA-256 of the classes, names and labels; what is in the pictures is not looked at."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        digest.update(b"\0".join(self.paths.tolist()))
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def path(self, index: int) -> Path:
        """Where a picture lies."""
        return self.root / os.fsdecode(self.paths[index])

    def pixels(self, index: int) -> np.ndarray[Any, Any]:
        """The cropped picture, uint8 (S, S, 3)."""
        picture = read_rgb(self.path(index), self.upright)
        if picture.info["orientation"] != 1 and not self.upright:
            rank_zero_warn(
                "pictures with an EXIF orientation are read as they are stored, turned or mirrored, as ADM "
                "reads them; data.init_args.upright: true turns them"
            )
        return centre_crop(picture, self.size)

    def __getitems__(self, keys: Sequence[int | tuple[int, int]]) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        pixels = np.stack([self.pixels(i) for i in index])  # (B, S, S, 3)
        if self.flip and any(isinstance(k, tuple) for k in keys):
            flipped = (item_seeds(global_seed(), epochs, index) >> np.uint64(63)).astype(bool)
            pixels[flipped] = pixels[flipped, :, ::-1]
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        rows = torch.from_numpy(index)
        return {"image": image.contiguous(), "label": self.labels[rows], "index": rows}


def _subfolders(root: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))


def _pictures(root: Path, name: str) -> tuple[list[str], list[str]]:
    """Pictures and other files under a folder, sorted folder by folder, relative to ``root``."""
    pictures: list[str] = []
    others: list[str] = []
    for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
        if any(part.startswith(".") for part in Path(folder).relative_to(root).parts):
            continue
        for file in sorted(f for f in files if not f.startswith(".")):
            relative = os.path.relpath(os.path.join(folder, file), root)
            (pictures if file.lower().endswith(SUFFIXES) else others).append(relative)
    return pictures, others


class ShardBatchSampler:
    """Batches that make up whole shards of consecutive items; a process takes every world-th shard left.

    Where a batch begins and ends does not depend on the number of processes or on what is finished: the same
    items are always computed together.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        shard_size: int,
        finished: Sequence[int] = (),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        left = sorted(set(range(-(-size // shard_size))) - set(finished))[rank::world_size]
        self._batches = [
            range(start, min(start + batch_size, (shard + 1) * shard_size, size))
            for shard in left
            for start in range(shard * shard_size, min((shard + 1) * shard_size, size), batch_size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(batch) for batch in self._batches)


class ImageFolder(SplitModule):
    """Pictures in one folder per class, cropped as ADM crops them and mirrored half of the time in training.

    Batch: ``image`` float32 (B, 3, S, S) in [-1, 1], ``label`` int64 (B,), ``index`` int64 (B,). Prediction
    goes through all pictures of ``root`` once, unmirrored and in order, in shards that
    :class:`zoo.LatentExtractor` writes; with ``predict_samples`` its batches have ``label`` and ``index``
    alone: classes uniform at random, for models that make pictures.

    Args:
        root: folder of the class folders; defaults to ``$ZOO_DATA/imagenet/train`` or
            ``data/imagenet/train``.
        size: side S of the crop.
        batch_size: global training batch, over all devices.
        val_root: folder of held-out class folders, for validation and test; null has none.
        flip: mirror training pictures with probability 1/2.
        num_classes: expected number of classes, an error if the folders are others; 1 takes all pictures
            under ``root`` for one class, null any number.
        eval_batch_size: global batch of validation and test, and of prediction with ``predict_samples``.
        predict_batch_size: pictures that one device encodes together. Not global: so the latents do not
            depend on the number of devices, to the bit.
        shard_size: pictures per file of an extraction, what a killed one does again at most per device.
        predict_samples: number of labels that ``zoo predict`` samples; null predicts from the pictures.
        num_workers: loader processes.
        upright: turn pictures as their EXIF orientation says; ADM, and so the published latents and
            statistics of ImageNet, leaves them as they are stored.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("size side",)
    of_variants: ClassVar[dict[str, Uses]] = {
        "predict_samples": dict.fromkeys(("predict_batch_size", "shard_size"), (None,))
    }

    def __init__(
        self,
        root: str | None = None,
        size: Size = 256,
        batch_size: Many = 256,
        val_root: str | None = None,
        flip: bool = True,
        num_classes: Size | None = None,
        eval_batch_size: Many = 64,
        predict_batch_size: Many = 32,
        shard_size: Many = 2048,
        predict_samples: Many | None = None,
        num_workers: Workers = 8,
        upright: bool = False,
    ) -> None:
        check_ranges(ImageFolder, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_variants(ImageFolder, locals())
        if shard_size % predict_batch_size:
            raise ValueError(
                f"shard_size must be a multiple of predict_batch_size, got {shard_size} and "
                f"{predict_batch_size}"
            )
        if predict_samples is not None and num_classes is None:
            raise ValueError("predict_samples draws classes, so num_classes must say how many there are")
        self.root = data_folder(root, "imagenet/train")
        self.val_root = Path(val_root) if val_root else None
        self.size, self.flip, self.num_classes, self.upright = size, flip, num_classes, upright
        self.predict_batch_size, self.shard_size = predict_batch_size, shard_size
        self.predict_samples = predict_samples
        self.shape = (3, size, size)
        self.finished_shards: list[int] = []

    def _open(self, root: Path, flip: bool = False) -> FolderImages:
        data = FolderImages(root, self.size, flip, self.num_classes == 1, self.upright)
        expected, found = self.num_classes, len(data.classes)
        if expected is not None and found != expected:
            raise ValueError(
                f"{root} holds {found:,} class folders, but data.init_args.num_classes is {expected:,}"
            )
        self.num_classes = found
        return data

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train_set = self._open(self.root, self.flip)
        if stage in ("fit", "validate", "test") and self.val_root:
            self.val_set = self._open(self.val_root)
        elif stage in ("validate", "test"):
            raise ValueError(
                f"zoo {stage} needs held-out pictures: set data.init_args.val_root to their folder"
            )
        if stage == "predict":
            self.predict_set = self._predict_set()

    def _predict_set(self) -> TensorItems | FolderImages:
        if self.predict_samples is None:
            return self._open(self.root)
        assert self.num_classes is not None
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(self.num_classes, (self.predict_samples,), generator=generator)
        return TensorItems(label=labels)

    def predict_dataloader(self) -> Any:
        if self.predict_samples is not None:
            return super().predict_dataloader()
        sizes = (len(self.predict_set), self.predict_batch_size, self.shard_size)
        return DataLoader(
            self.predict_set,
            batch_sampler=ShardBatchSampler(*sizes, self.finished_shards, *place(self)),
            num_workers=self.num_workers,
            collate_fn=as_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
