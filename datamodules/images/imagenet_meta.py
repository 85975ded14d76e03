"""ImageNet by lists: ``meta/train.txt`` with lines "relative/path label", and files of class names."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.images.image_folder import centre_crop
from datamodules.loading.files import check_claim, read_json
from datamodules.loading.loaders import BatchItems
from datamodules.loading.pictures import read_rgb
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.tables import cut, read_rows, whole_number_of

_WANTED = '"relative/path label", as n01440764/n01440764_10026.JPEG 0'
_MOST_CLASSES = 10**6
_SYNSET = re.compile(r"(n\d{8}) (.+)")


def read_meta(path: Path, classes: int | None = None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A list of pictures and labels.

    The label is what follows the last blank of a line, so that paths may have blanks.

    Args:
        path: of the list.
        classes: labels are 0 to ``classes`` - 1; None takes the largest, and each must occur.

    Returns:
        the paths as bytes (N,), and int64 labels (N,).

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing or no such list, with the line's
            number: a path that leaves the folder, a picture that is named twice, a label that is none.
    """
    seen: dict[bytes, int] = {}
    labels: list[int] = []
    for number, cells in read_rows(path, " "):
        name, label = _line(path, number, cells, classes)
        if (before := seen.setdefault(name, number)) != number:
            raise ValueError(
                f"{path}, line {number}: {cut(os.fsdecode(name), 60)} is in line {before} already"
            )
        labels.append(label)
    if not labels:
        raise ValueError(f"{path} names no pictures: its lines are {_WANTED}")
    found = np.array(labels, dtype=np.int64)
    counts = np.bincount(found)
    if classes is None and not counts.all():
        raise ValueError(
            f"{path}: labels go to {len(counts) - 1}, but none of its pictures has label "
            f"{int(counts.argmin())}; say how many classes there are if that is meant"
        )
    # one array of bytes, since a million Python strings are copied into every worker that touches them
    check_claim(path, f"an array of {len(seen):,} paths", len(seen) * max(map(len, seen)))
    return np.array(list(seen)), found


def _line(path: Path, number: int, cells: list[str], classes: int | None) -> tuple[bytes, int]:
    where, last = " ".join(cells[:-1]).strip(), cells[-1]
    if not where:
        raise ValueError(f"{path}, line {number}: {cut(last)} is not {_WANTED}")
    try:
        label = whole_number_of(last)
    except ValueError:
        raise ValueError(f"{path}, line {number}: the label {cut(last)} is no whole number") from None
    most = (_MOST_CLASSES if classes is None else classes) - 1
    if not 0 <= label <= most:
        raise ValueError(f"{path}, line {number}: the label {label} is not 0 to {most:,}")
    parts = PurePosixPath(where).parts
    if "\0" in where or "\\" in where or where.startswith("/") or ".." in parts or ":" in parts[0]:
        raise ValueError(f"{path}, line {number}: {cut(where, 60)} is no path below the folder of pictures")
    return os.fsencode(where), label


class MetaImages(BatchItems):
    """Pictures that a list names, centre-cropped as :class:`datamodules.images.image_folder.FolderImages`.

    Items: ``image`` float32 (B, 3, S, S) in [-1, 1], ``label`` and ``index`` int64 (B,).

    Args:
        root: folder that the list's paths are relative to (ImageNet: ``train``).
        meta: the list.
        size: S.
        classes: see :func:`read_meta`.
        upright: turn pictures as their EXIF orientation says.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_meta`; or where the list's first picture is not there.
    """

    def __init__(
        self, root: Path, meta: Path, size: int, classes: int | None = None, upright: bool = True
    ) -> None:
        self.root, self.meta, self.size, self.upright = root, meta, size, upright
        self.paths, labels = read_meta(meta, classes)
        self.labels = torch.from_numpy(labels)
        self.num_classes = int(labels.max()) + 1 if classes is None else classes
        if not self.path(0).is_file():
            raise FileNotFoundError(
                f"no picture {self.path(0)}, which {meta} names first: its paths are relative to {root}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """Where a picture lies."""
        return self.root / os.fsdecode(self.paths[index])

    def fingerprint(self) -> str:
        """SHA-256 of the names and labels; what is in the pictures is not looked at."""
        digest = hashlib.sha256(b"\0".join(self.paths.tolist()))
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def pixels(self, index: int) -> np.ndarray[Any, Any]:
        """The cropped picture, uint8 (S, S, 3).

        Raises:
            FileNotFoundError, ValueError: one line on a picture that is missing or damaged.
        """
        path = self.path(index)
        if not path.is_file():
            raise FileNotFoundError(f"no picture {path}, which {self.meta} names")
        return centre_crop(read_rgb(path, self.upright), self.size)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        rows = batch_keys(keys)[1]
        pixels = torch.from_numpy(np.stack([self.pixels(int(i)) for i in rows]))
        index = torch.from_numpy(rows)
        image = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return {"image": image.contiguous(), "label": self.labels[index], "index": index}


def read_class_names(path: Path, classes: int | None = None) -> list[str]:
    """Names of classes by label.

    ``.json``: a list of names (imagenet-simple-labels), or ``{"0": ["n01440764", "tench"], ...}`` (Keras).
    Else a name a line; where each line begins with a synset ("n01440764 tench, Tinca tinca"), that is left
    out and the first of the names is taken. Names that several labels have are told of.

    Args:
        path: of the file.
        classes: how many there must be; None takes what there is.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing or none of these.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    found = list(_names_of_json(path) if path.suffix == ".json" else _names_of_lines(path))
    for label, name in enumerate(found):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{path}: the name of label {label} is no text")
    names = [" ".join(name.split()) for name in found]
    if not names or (classes is not None and len(names) != classes):
        raise ValueError(f"{path} has {len(names):,} names for {'' if classes is None else classes} classes")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        rank_zero_warn(f"{path}: {len(twice)} names stand for several classes, for example {cut(twice[0])}")
    return names


def _names_of_json(path: Path) -> Sequence[Any]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is no readable JSON ({' '.join(str(error).split())[:80]})") from None
    if isinstance(content, list):
        return content
    if not isinstance(content, dict) or set(content) != {str(i) for i in range(len(content))}:
        raise ValueError(f"{path}: class names are a list, or an object with the keys 0 to the last label")
    ordered = [content[str(i)] for i in range(len(content))]
    return [v[-1] if isinstance(v, list) and len(v) == 2 else v for v in ordered]


def _names_of_lines(path: Path) -> Iterator[str]:
    lines = [" ".join(cells) for _, cells in read_rows(path, " ")]
    synsets = [_SYNSET.fullmatch(line) for line in lines]
    for line, synset in zip(lines, synsets, strict=True):
        yield synset[2].split(",")[0] if synset and all(synsets) else line
