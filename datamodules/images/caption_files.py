"""Files of captions: a table or JSON lines beside a folder of pictures, and COCO's annotations."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.loading.files import one_line, read_json
from datamodules.loading.tables import cut
from datamodules.text.records import lines_of, numbered_jsonl

TABLES = ("captions.csv", "captions.jsonl")
_FIELDS = {"file": str, "caption": str}


@dataclass(frozen=True)
class Captioned:
    """A picture and a caption.

    Attributes:
        path: of the picture.
        caption: with single spaces.
        split: ``train``, ``val`` or ``test``; empty where the file does not say.
    """

    path: Path
    caption: str
    split: str = ""


SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_captions(root: Path) -> list[Captioned]:
    """Pairs of ``captions.csv`` or ``captions.jsonl`` in a folder of pictures.

    Fields are ``file`` (below the folder), ``caption`` and, in all rows or none, ``split``.

    Raises:
        FileNotFoundError, ValueError: naming file and line of what is missing, empty or outside the folder.
    """
    there = [root / name for name in TABLES if (root / name).is_file()]
    if len(there) != 1:
        found = "no" if not there else "both"
        raise FileNotFoundError(
            f"{found} {' and '.join(TABLES)} in {root}: one of them says which picture has which caption, "
            "with fields file, caption and, at will, split; set data.init_args.root to where they are"
        )
    path = there[0]
    rows = _csv_rows(path) if path.suffix == ".csv" else numbered_jsonl(path, _FIELDS)
    pairs, files, splits = [], {}, set()
    for number, row in rows:
        where = f"{path}, line {number}"
        caption = " ".join(str(row["caption"]).split())
        if not caption:
            raise ValueError(f"{where}: the caption is empty")
        given = str(row.get("split") or "").strip().lower()
        if given and given not in _SPLIT_NAMES:
            raise ValueError(f"{where}: split is {cut(given)}, not train, val or test")
        splits.add(bool(given))
        name = str(row["file"]).strip()
        if name not in files:
            files[name] = _inside(root, name, where)
        pairs.append(Captioned(files[name], caption, _SPLIT_NAMES.get(given, "")))
    if not pairs:
        raise ValueError(f"{path} holds no captions")
    if len(splits) > 1:
        raise ValueError(f"{path}: some rows have a split and some have none; give it to all or to none")
    return pairs


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows of a comma-separated table with quotes, whose first line names its columns."""
    lines = [text for _, text in lines_of(path)]
    while lines and not lines[-1].strip():
        lines.pop()
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    head: list[str] = []
    try:
        for cells in reader:
            if not head:
                head = [cell.strip() for cell in cells]
                if missing := [name for name in _FIELDS if head.count(name) != 1]:
                    raise ValueError(
                        f"{path}, line 1: no single column {missing[0]!r}, only {cut(', '.join(head), 60)}"
                    )
                continue
            if len(cells) != len(head):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, the first line names {len(head)}; "
                    "a caption with a comma stands in quotes"
                )
            yield reader.line_num, dict(zip(head, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: no row of a table ({one_line(error)})") from None


def _inside(root: Path, name: str, where: str) -> Path:
    """A picture below ``root``."""
    if not name or "\0" in name or os.path.isabs(name) or ".." in Path(name).parts:
        raise ValueError(f"{where}: file is {cut(name)}, no path below {root}")
    path = root / name
    if not path.is_file():
        raise FileNotFoundError(f"{where}: there is no picture {path}")
    return path


def read_coco(annotations: Path, pictures: Path) -> list[Captioned]:
    """Pairs of COCO's ``captions_*.json``, in the order of its annotations.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or of another layout.
    """
    if not annotations.is_file():
        raise FileNotFoundError(
            f"no {annotations}; COCO's captions are annotations/captions_train2017.json and "
            "captions_val2017.json beside the folders train2017 and val2017; set data.init_args.root"
        )
    try:
        content = read_json(annotations)
    except ValueError as error:
        raise ValueError(f"{annotations} is no JSON ({one_line(error)})") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(k), list) and content[k] for k in ("images", "annotations")
    ):
        raise ValueError(f"{annotations} has no lists of images and annotations, as COCO's captions have")
    files: dict[int, Path] = {}
    for i, entry in enumerate(content["images"]):
        number, name = (entry.get("id"), entry.get("file_name")) if isinstance(entry, dict) else (None, None)
        if not isinstance(number, int) or not isinstance(name, str) or number in files:
            raise ValueError(f"{annotations}: image {i} has no file_name and id of its own")
        files[number] = _inside(pictures, name, f"{annotations}, image {i}")
    pairs = []
    for i, entry in enumerate(content["annotations"]):
        number, text = (
            (entry.get("image_id"), entry.get("caption")) if isinstance(entry, dict) else (None, None)
        )
        caption = " ".join(text.split()) if isinstance(text, str) else ""
        if not isinstance(number, int) or number not in files or not caption:
            raise ValueError(f"{annotations}: annotation {i} has no caption of an image of the file")
        pairs.append(Captioned(files[number], caption))
    return pairs


def same_pictures(paths: list[Path]) -> list[int]:
    """A number for each file, the same for copies of one picture; only files of equal length are read."""
    of_size: dict[int, list[Path]] = {}
    for path in dict.fromkeys(paths):
        of_size.setdefault(path.stat().st_size, []).append(path)
    key: dict[Path, object] = {}
    for group in of_size.values():
        for path in group:
            alone = len(group) == 1
            key[path] = path if alone else hashlib.sha256(path.read_bytes()).digest()
    return numbered([key[path] for path in paths])


def numbered(values: list[Any]) -> list[int]:
    """0, 1, ... for values in the order in which they first come."""
    known: dict[Any, int] = {}
    return [known.setdefault(value, len(known)) for value in values]
