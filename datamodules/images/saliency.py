"""Pictures with masks of their salient objects: the released data sets, folders and list files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.masks import MaskValues, read_mask
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import SplitModule
from datamodules.loading.pictures import SUFFIXES, UPRIGHT, read_rgb
from datamodules.loading.ranges import Degrees, Many, Rate, Size, Workers, check_ranges
from datamodules.loading.sampling import global_seed, item_generator

Array = np.ndarray[Any, Any]
_PHOTOS = tuple(s for s in SUFFIXES if s != ".png")
_LISTS = (".lst", ".txt")
_SOME = 3  # names in a message, files that are looked into
_DARK, _BINARY_SHARE = 32, 0.9  # a mask has this share of pixels so near to black or white


@dataclass(frozen=True)
class Layout:
    """Where a released set lies under the root, and how many pictures it was published with.

    Their masks are grey, and none has classes: {0, 85} of PASCAL-S is a share of observers and no object.
    """

    folders: tuple[str, ...]
    pair: tuple[str, str]
    images: int
    split: str | None = None


SETS: dict[str, Layout] = {
    "duts_tr": Layout(("DUTS-TR", "DUTS/DUTS-TR"), ("DUTS-TR-Image", "DUTS-TR-Mask"), 10553),
    "duts_te": Layout(("DUTS-TE", "DUTS/DUTS-TE"), ("DUTS-TE-Image", "DUTS-TE-Mask"), 5019),
    "msra_b": Layout(("MSRA-B",), (".", "."), 5000),
    "ecssd": Layout(("ECSSD",), ("images", "ground_truth_mask"), 1000),
    "hku_is": Layout(("HKU-IS",), ("imgs", "gt"), 4447),
    "hku_is_train": Layout(("HKU-IS",), ("imgs", "gt"), 2500, "trainImgSet.mat"),
    "hku_is_val": Layout(("HKU-IS",), ("imgs", "gt"), 500, "valImgSet.mat"),
    "hku_is_test": Layout(("HKU-IS",), ("imgs", "gt"), 1447, "testImgSet.mat"),
    "dut_omron": Layout(("DUT-OMRON", "."), ("DUT-OMRON-image", "pixelwiseGT-new-PNG"), 5168),
    "pascal_s": Layout(("PASCAL-S",), ("datasets/imgs/pascal", "datasets/masks/pascal"), 850),
    "sod": Layout(("SOD",), ("Imgs", "GT"), 300),
    "sed2": Layout(("SED2",), ("src_color", "ground_truth"), 100),
}
"""The released sets; each is also found as ``imgs`` and ``gts`` in its folder, as in the official code."""
PAIRS = (
    ("imgs", "gts"),
    ("images", "masks"),
    *dict.fromkeys(s.pair for s in SETS.values() if s.pair[0] != "."),
)

# One picture: RGB, mask (grey; None without), name.
Item = tuple[Image.Image, Image.Image | None, str]


class MemoryItems:
    """Pictures uint8 (N, H, W, 3) with masks bool (N, H, W), in memory."""

    def __init__(self, pictures: Array, masks: Array, names: Sequence[str]) -> None:
        self.pictures, self.masks, self.names = pictures, masks, list(names)

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int) -> Item:
        mask = Image.fromarray(self.masks[index].astype(np.uint8) * 255)
        return Image.fromarray(self.pictures[index]), mask, self.names[index]


class FileItems:
    """Pictures and masks in files.

    Args:
        images: paths.
        masks: paths, in the same order; None without masks.
        names: of the pictures, for what is written about them.
        mask_values: see :func:`datamodules.images.masks.read_mask`.
    """

    def __init__(
        self,
        images: Sequence[Path],
        masks: Sequence[Path] | None,
        names: Sequence[str],
        mask_values: MaskValues = "auto",
    ) -> None:
        self.images, self.masks, self.names = (
            list(images),
            None if masks is None else list(masks),
            list(names),
        )
        self.mask_values: MaskValues = mask_values

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Item:
        image = read_rgb(self.images[index])
        if self.masks is None:
            return image, None, self.names[index]
        return image, self._mask_of(image, index), self.names[index]

    def _mask_of(self, image: Image.Image, index: int) -> Image.Image:
        """The mask as its picture stands. One of a turned picture that was drawn on the pixels as they are
        stored has their size, and is turned likewise."""
        assert self.masks is not None
        path = self.masks[index]
        mask = read_mask(path, self.mask_values)
        orientation = image.info["orientation"]
        stored = image.size[::-1] if orientation >= 5 else image.size  # 5 to 8 exchange width and height
        if stored != image.size and mask.size == stored and mask.info["orientation"] == 1:
            rank_zero_warn(
                "masks of turned pictures have their size before turning: they are turned with them"
            )
            return mask.transpose(UPRIGHT[orientation])
        return mask


# --- finding files ------------------------------------------------------------------------------------------


def open_items(
    source: str,
    root: Path,
    skip_unpaired: bool = False,
    masks: bool = True,
    mask_values: MaskValues | None = None,
) -> FileItems:
    """The pictures of a released set, a folder or a list file.

    Args:
        source: a name of :data:`SETS`, a folder (absolute or under ``root``) or a ``.lst`` or ``.txt`` file.
        root: of the data.
        skip_unpaired: leave out pictures without a mask and masks without a picture, with a count; else they
            are an error.
        masks: false takes any folder of pictures; masks that are there are read all the same.
        mask_values: see :func:`datamodules.images.masks.read_mask`; None is ``grey`` for a released set and
            ``auto`` for others.

    Raises:
        FileNotFoundError: with the layouts that were looked for.
        ValueError: for pictures and masks that do not pair up.
    """
    items = _found_items(source, root, skip_unpaired, masks)
    items.mask_values = mask_values or ("grey" if source in SETS else "auto")
    return items


def _found_items(source: str, root: Path, skip_unpaired: bool, masks: bool) -> FileItems:
    if source in SETS:
        return _open_set(source, root, skip_unpaired)
    path = next((p for p in (Path(source), root / source) if p.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"no pictures at {source!r}: neither a file nor a folder, here or under {root}, nor one of the "
            f"sets {', '.join(SETS)}; put it there, or set data.init_args.root (or the environment variable "
            "ZOO_DATA)"
        )
    if path.is_file():
        if path.suffix not in _LISTS:
            raise ValueError(
                f"{path} is no list of pictures: a {' or '.join(_LISTS)} file, `image mask` a line"
            )
        return _open_list(path, root, masks)
    for pair in PAIRS:
        if all((path / part).is_dir() for part in pair):
            return _paired(path / pair[0], path / pair[1], skip_unpaired)
    if masks or _has_masks_beside(path):
        return _paired(path, path, skip_unpaired)
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise FileNotFoundError(f"no pictures under {path} ({', '.join(SUFFIXES)})")
    return FileItems(found, None, _output_names([p.relative_to(path) for p in found]))


def _has_masks_beside(path: Path) -> bool:
    """Whether a folder holds jpg pictures and png masks of the same stems, as MSRA-B.

    The png files may as well be pictures: they are masks if the first few are as large as the jpg and nearly
    black and white.
    """
    photos, pngs = (
        {p.stem: p for p in sorted(path.iterdir()) if p.suffix.lower() in s} for s in (_PHOTOS, (".png",))
    )
    if not photos or set(photos) != set(pngs):
        return False
    found = all(_is_mask_of(pngs[stem], photos[stem]) for stem in list(photos)[:_SOME])
    kind = "masks of the jpg files" if found else "pictures, not masks of the jpg files,"
    rank_zero_warn(f"{path}: the png files are taken for {kind} of the same names")
    return found


def _is_mask_of(png: Path, photo: Path) -> bool:
    try:
        mask = read_mask(png, "grey")
        if mask.size != read_rgb(photo).size:
            return False
    except ValueError:  # colours of a picture, or damaged: said when it is predicted
        return False
    values = np.asarray(mask)
    return bool(((values < _DARK) | (values > 255 - _DARK)).mean() > _BINARY_SHARE)


def _open_set(name: str, root: Path, skip_unpaired: bool) -> FileItems:
    layout = SETS[name]
    tried = []
    # one folder of everything is always there, so it is the last to be looked for
    pairs = sorted({layout.pair, ("imgs", "gts")}, key=lambda pair: (pair[0] == ".", pair != layout.pair))
    for folder in layout.folders:
        for pair in pairs:
            place = root / folder
            tried.append(" and ".join(dict.fromkeys(str(Path(folder) / part) for part in pair)))
            if all((place / part).is_dir() for part in pair):
                only = None if layout.split is None else _names_of_split(place / layout.split)
                items = _paired(place / pair[0], place / pair[1], skip_unpaired, only)
                if len(items) != layout.images:
                    rank_zero_warn(
                        f"{place}: {len(items):,} pictures with masks, {name} was published with "
                        f"{layout.images:,}"
                    )
                return items
    raise FileNotFoundError(
        f"no {name} under {root}: expected {', or '.join(tried)}; set data.init_args.root (or the "
        "environment variable ZOO_DATA, whose folder saliency is taken) to where the sets are"
    )


def _names_of_split(path: Path) -> set[str]:
    """Stems of the file names in one of HKU-IS's lists, a Matlab cell array."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise FileNotFoundError(f"no {path}: HKU-IS's split comes with the set, or name hku_is for all of it")
    try:
        content = loadmat(path)
    except (ValueError, OSError, NotImplementedError, TypeError, MatReadError) as error:
        raise ValueError(f"{path} is no Matlab file ({type(error).__name__})") from None
    cells = [v for k, v in content.items() if not k.startswith("__")]
    names: set[str] = set()
    for cell in cells:
        for entry in np.ravel(cell):
            text = str(np.ravel(entry)[0]) if np.size(entry) else ""
            names.add(Path(text).stem)
    names.discard("")
    if not names:
        raise ValueError(f"{path} holds no names of pictures")
    return names


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in found:
                raise ValueError(f"{path} and {found[path.stem].name} have the same stem: which is meant?")
            found[path.stem] = path
    return found


def _paired(images: Path, masks: Path, skip_unpaired: bool, only: set[str] | None = None) -> FileItems:
    """Pair by stem, whatever the order of the folders' listings."""
    together = images == masks
    pictures = _by_stem(images, _PHOTOS if together else SUFFIXES)
    answers = _by_stem(masks, (".png",) if together else SUFFIXES)
    if only is not None:
        absent = sorted(only - set(pictures))
        if absent:
            raise ValueError(f"{images}: the split names {len(absent):,} absent pictures ({_few(absent)})")
        pictures = {s: p for s, p in pictures.items() if s in only}
        answers = {s: p for s, p in answers.items() if s in only}
    if not pictures:
        what = "jpg pictures with png masks beside them" if together else "pictures"
        raise FileNotFoundError(f"no {what} in {images}")
    stems = sorted(set(pictures) & set(answers))
    alone = {
        "pictures without a mask": set(pictures) - set(stems),
        "masks without a picture": set(answers) - set(stems),
    }
    problems = [f"{len(names):,} {what} ({_few(sorted(names))})" for what, names in alone.items() if names]
    if problems:
        text = f"{images}: {', '.join(problems)} in {masks}"
        if not skip_unpaired or not stems:
            raise ValueError(f"{text}; add what is missing, or set data.init_args.skip_unpaired: true")
        rank_zero_warn(f"{text}: skipped, {len(stems):,} are left")
    return FileItems([pictures[s] for s in stems], [answers[s] for s in stems], stems)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SOME]) + (", ..." if len(names) > _SOME else "")


def _open_list(path: Path, root: Path, masks: bool) -> FileItems:
    """A list of HED and DSS: ``image mask`` a line, relative to the list's folder or to the root."""
    images, answers = [], []
    listed = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) > 2 or (masks and len(words) != 2):
            wanted = "image mask" if masks else "image, or image mask"
            raise ValueError(f"{path}, line {number}: expected `{wanted}`, got {line.strip()!r}")
        found = [_beside(word, path, root, number) for word in words]
        images.append(found[0])
        answers += found[1:]
        listed.append(Path(words[0]))
    if not images:
        raise ValueError(f"{path} lists no pictures")
    if answers and len(answers) != len(images):
        raise ValueError(
            f"{path}: {len(answers):,} of {len(images):,} pictures have a mask; give all or none"
        )
    return FileItems(images, answers or None, _output_names(listed))


def _output_names(paths: Sequence[Path]) -> list[str]:
    """What is written about each picture is called like it, without its suffix, and stays in one folder.

    Steps upwards are left out. Names that would be one file keep their suffix (``a_jpg``, ``a_png``), and
    have a number where that does not tell them apart.
    """
    inside = [Path(*(p for p in path.parts if p not in (path.anchor, "..", "."))) for path in paths]
    short = [path.with_suffix("").as_posix() for path in inside]
    count = Counter(name.casefold() for name in short)  # some file systems do not know case
    names, taken = [], {name for name, n in count.items() if n == 1}
    for name, path in zip(short, inside, strict=True):
        if count[name.casefold()] > 1:
            wanted = f"{name}{path.suffix.replace('.', '_')}"
            candidates = itertools.chain([wanted], (f"{wanted}_{i}" for i in itertools.count(2)))
            name = next(c for c in candidates if c.casefold() not in taken)
            taken.add(name.casefold())
        names.append(name)
    return names


def _beside(word: str, path: Path, root: Path, number: int) -> Path:
    for place in (path.parent, root):
        candidate = place / word.lstrip("/")
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{path}, line {number}: no {word} in {path.parent} or {root}")


# --- batches ------------------------------------------------------------------------------------------------


def _tensor(image: Image.Image) -> Tensor:
    """uint8 picture -> float32 (C, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


class ToBatch(Dataset[dict[str, Any]]):
    """Pictures as batches. Asked for as (epoch, index) they are transformed for training, else evaluated.

    Args:
        items: to read from.
        size: side that pictures are resized to, bilinear; null keeps theirs.
        flip: mirror half of the training pictures.
        rotate: largest angle in degrees, drawn evenly from both sides (picture bilinear, mask nearest).
        crop: largest share of each side that is cut off.
        skip: leave out what cannot be read in evaluation, with the reasons in ``skipped`` of the batch.
    """

    def __init__(
        self,
        items: MemoryItems | FileItems,
        size: int | None = None,
        flip: bool = False,
        rotate: float = 0.0,
        crop: float = 0.0,
        skip: bool = False,
    ) -> None:
        self.items, self.size, self.skip = items, size, skip
        self.flip, self.rotate, self.crop = flip, rotate, crop
        self._told = False

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, keys: Sequence[int] | Sequence[tuple[int, int]]) -> dict[str, Any]:
        training = isinstance(keys[0], tuple)
        return self._train_batch(keys) if training else self._evaluated(keys)  # type: ignore[arg-type]

    def _train_batch(self, keys: Sequence[tuple[int, int]]) -> dict[str, Any]:
        images, masks = [], []
        for epoch, index in keys:
            image, mask, name = self.items.read(index)
            assert mask is not None
            mask = self._fitted(mask, image, name)
            image, mask = self._transformed(image, mask, item_generator(global_seed(), epoch, index))
            images.append(_tensor(image))
            masks.append(_tensor(mask))
        if len({i.shape for i in images}) > 1:
            sizes = sorted({f"{i.shape[2]} x {i.shape[1]}" for i in images})
            raise ValueError(
                f"pictures of {_few(sizes)} cannot be one batch: set data.init_args.size, or batch_size so "
                "that each device has 1 (trainer.accumulate_grad_batches makes up for it)"
            )
        rows = torch.tensor([i for _, i in keys])
        return {"image": torch.stack(images), "mask": torch.stack(masks), "index": rows}

    def _fitted(self, mask: Image.Image, image: Image.Image, name: str) -> Image.Image:
        """A mask at its picture's size, for training; evaluation is at the mask's own."""
        if mask.size == image.size:
            return mask
        if not self._told:
            rank_zero_warn(
                f"the mask of {name} is {mask.width} x {mask.height}, its picture {image.width} x "
                f"{image.height}: such masks are resized for training (nearest)"
            )
        self._told = True
        return mask.resize(image.size, Image.Resampling.NEAREST)

    def _transformed(
        self, image: Image.Image, mask: Image.Image, rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image]:
        mirrored, angle = rng.random() < 0.5, rng.uniform(-self.rotate, self.rotate)
        shares = rng.random(4)
        if self.flip and mirrored:
            left_right = Image.Transpose.FLIP_LEFT_RIGHT
            image, mask = image.transpose(left_right), mask.transpose(left_right)
        if self.crop:
            box = _crop_box(image.width, image.height, self.crop, shares)
            image, mask = image.crop(box), mask.crop(box)
        if self.rotate:
            image = image.rotate(angle, Image.Resampling.BILINEAR)
            mask = mask.rotate(angle, Image.Resampling.NEAREST)
        if self.size is not None:
            square = (self.size, self.size)
            image = image.resize(square, Image.Resampling.BILINEAR)
            mask = mask.resize(square, Image.Resampling.BILINEAR)
        return image, mask

    def _evaluated(self, keys: Sequence[int]) -> dict[str, Any]:
        images, masks, sizes, names, rows, skipped = [], [], [], [], [], []
        for index in keys:
            try:
                image, mask, name = self.items.read(index)
            except (ValueError, FileNotFoundError) as error:
                if not self.skip:
                    raise
                skipped.append(str(error))
                continue
            rows.append(index)
            sizes.append((image.height, image.width))
            names.append(name)
            if mask is not None:
                masks.append(torch.from_numpy(np.array(mask)))
            if self.size is not None:
                image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
            images.append(_tensor(image))
        alike = len({i.shape for i in images}) == 1
        batch = {"image": torch.stack(images) if alike else images, "size": sizes, "name": names}
        batch["index"] = torch.tensor(rows)
        batch |= {"skipped": skipped} if skipped else {}
        return {**batch, "mask": masks} if masks else batch

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([key])  # type: ignore[arg-type]


def _crop_box(width: int, height: int, share: float, draws: Array) -> tuple[int, int, int, int]:
    """A box that leaves out up to ``share`` of each side, from four uniform numbers."""
    across, down = int(draws[0] * share * width), int(draws[1] * share * height)
    left, top = int(draws[2] * (across + 1)), int(draws[3] * (down + 1))
    return left, top, left + width - across, top + height - down


def _names_of(sources: Sequence[str]) -> list[str]:
    """What sources are called in the log: their stems; the folder's name of a mere split, both where two are
    alike."""
    paths = [Path(s) for s in sources]
    short = [p.parent.name or p.stem if p.stem in ("train", "val", "test") else p.stem for p in paths]
    long = [f"{p.parent.name}_{p.stem}".lstrip("_") for p in paths]
    names = [b if short.count(a) > 1 else a for a, b in zip(short, long, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError(f"data.init_args.test names one source twice: {', '.join(sources)}")
    return names


class Saliency(SplitModule):
    """Pictures with masks of salient objects: DUTS, MSRA-B, ECSSD, HKU-IS, DUT-OMRON, PASCAL-S, SOD, SED2.

    Training batch: ``image`` float32 (B, 3, H, W) in [0, 1], ``mask`` float32 (B, 1, H, W) in [0, 1],
    ``index`` int64 (B,). Evaluation batch: ``image`` likewise, a list of (3, H, W) where sizes differ;
    ``mask`` a list of uint8 (H, W) in 0..255 at the mask's own size (absent without masks); ``size`` a
    list of (height, width) before resizing; ``name`` a list; ``index``.

    A source is a set's name (``duts_tr``, ``duts_te``, ``msra_b``, ``ecssd``, ``hku_is`` and its ``_train``,
    ``_val`` and ``_test``, ``dut_omron``, ``pascal_s``, ``sod``, ``sed2``), a folder (``imgs`` and ``gts``,
    any released pair of folders, or jpg and png in one), or a ``.lst`` or ``.txt`` file of ``image mask``
    lines.
    Pictures and masks are paired by the stem of their names.

    Args:
        root: of the sets; defaults to ``$ZOO_DATA/saliency`` or ``data/saliency``.
        train: source of the training pictures.
        val: of the validation pictures; null has none.
        test: one source or several, which are measured one by one and logged under their stems;
            ``MSRA-B/test.lst`` under ``MSRA-B``.
        predict: of ``zoo predict``, masks not needed; null takes the first test source.
        size: side that all pictures are resized to; null keeps each picture's own (then each device takes 1).
        batch_size: global training batch, over all devices.
        flip: mirror half of the training pictures.
        rotate: largest angle of their rotation in degrees, to either side.
        crop: largest share that is cut off each of their sides.
        skip_unpaired: leave out pictures without a mask, with a count, where that is an error else.
        mask_values: what the values of masks are: ``grey``, ``classes`` (all but 0 and 255 are object) or
            ``auto``, which tells by the values of each file and refuses doubtful ones; null is ``grey`` for
            the released sets and ``auto`` for others. Palettes and colours are classes in any case.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
        drop_last: leave out the last partial batch of an epoch; the official ports keep it.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("size side",)

    def __init__(
        self,
        root: str | None = None,
        train: str = "duts_tr",
        val: str | None = None,
        test: str | list[str] = "ecssd",
        predict: str | None = None,
        size: Size | None = 352,
        batch_size: Many = 10,
        flip: bool = True,
        rotate: Degrees = 0.0,
        crop: Rate = 0.0,
        skip_unpaired: bool = False,
        eval_batch_size: Many = 1,
        num_workers: Workers = 4,
        mask_values: MaskValues | None = None,
        drop_last: bool = True,
    ) -> None:
        check_ranges(Saliency, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        if size is not None and size < 32:
            raise ValueError(f"size must be null or at least 32, got {size}")
        if mask_values is not None:
            check_choice("mask_values", mask_values, MaskValues)
        self.mask_values, self.drop_last = mask_values, drop_last
        self.root = data_folder(root, "saliency")
        self.sources: dict[str, str | None] = {"train": train, "val": val}
        self.tests = [test] if isinstance(test, str) else list(test)
        if not self.tests:
            raise ValueError("data.init_args.test names no source; give one set or several")
        self.predict = predict or self.tests[0]
        self.size, self.skip_unpaired = size, skip_unpaired
        self.transforms: Any = {"flip": flip, "rotate": rotate, "crop": crop}
        self.test_sets = _names_of(self.tests)

    def _open(self, source: str, masks: bool = True) -> FileItems:
        items = open_items(source, self.root, self.skip_unpaired, masks, self.mask_values)
        if masks and items.masks is None:
            raise ValueError(f"{source}: pictures without masks can only be predicted")
        for index in range(min(len(items), _SOME) if masks else 0):  # said at once, not by a worker later
            items.read(index)
        return items

    def setup(self, stage: str) -> None:
        val = self.sources["val"]
        if stage == "fit":
            self.train_set = ToBatch(self._open(str(self.sources["train"])), self.size, **self.transforms)
        if stage in ("fit", "validate") and val:
            self.val_set = ToBatch(self._open(val), self.size)
        elif stage == "validate":
            raise ValueError("zoo validate needs held-out pictures: set data.init_args.val")
        if stage == "test":
            self.test_set = [ToBatch(self._open(source), self.size) for source in self.tests]
        if stage == "predict":
            self.predict_set = ToBatch(self._open(self.predict, masks=False), self.size, skip=True)
