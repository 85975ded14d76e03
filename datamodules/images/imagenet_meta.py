"""ImageNet by lists: ``meta/train.txt`` with lines "relative/path label", and files of class names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.loading.files import check_claim, read_json
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
