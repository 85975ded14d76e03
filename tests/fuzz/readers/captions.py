"""Captions of others through their data module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.captions import fake_captions, fake_coco
from fuzz.forked import Reader

from datamodules import ImageCaptions


def _read(layout: Any, root: Path) -> Any:
    data = ImageCaptions(layout, str(root), size=16, context=8, batch_size=4)
    data.setup("fit")
    return [s.__getitems__([0, 1]) for s in (data.train_set, data.val_set, data.test_set)]


def write_table(root: Path) -> Path:
    return fake_captions(root)


def write_lines(root: Path) -> Path:
    return fake_captions(root, lines=True)


def write_coco(root: Path) -> Path:
    return fake_coco(root, 6) / "captions_train2017.json"


READERS = [
    Reader("captions.csv beside pictures", write_table, lambda path: _read("folder", path.parent)),
    Reader("captions.jsonl beside pictures", write_lines, lambda path: _read("folder", path.parent)),
    Reader("COCO's captions", write_coco, lambda path: _read("coco", path.parent.parent)),
]
