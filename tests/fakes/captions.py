"""Small pictures with captions: a folder with its table, and COCO's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}
SHAPES = ("square", "stripe", "frame", "corner")


def picture(colour: str, shape: str, side: int, shade: int = 0) -> Image.Image:
    """A shape of a colour on black; ``shade`` makes it a picture of its own."""
    pixels = np.full((side, side + 4, 3), shade, dtype=np.uint8)
    a, b = side // 4, 3 * side // 4
    part = {
        "square": (slice(a, b), slice(a, b)),
        "stripe": (slice(a, 2 * a), slice(None)),
        "frame": (slice(None), slice(0, a)),
        "corner": (slice(0, a), slice(0, a)),
    }[shape]
    pixels[part] = COLOURS[colour]
    return Image.fromarray(pixels)


def fake_captions(root: Path, side: int = 24, split: bool = False, lines: bool = False) -> Path:
    """48 pictures of 16 kinds, ``copy.png`` of the first one under another name; returns the table."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(48):
        colour, shape = list(COLOURS)[i % 4], SHAPES[i // 4 % 4]
        name = f"{i:02d}.png"
        picture(colour, shape, side, shade=i // 16).save(root / name)
        rows.append({"file": name, "caption": f"a {colour} {shape}, on black"})
        if split:
            rows[-1]["split"] = ("train", "train", "val")[i // 16]
    (root / "copy.png").write_bytes((root / "00.png").read_bytes())
    more = {"split": "train"} if split else {}
    rows.append({"file": "copy.png", "caption": "the same square again", **more})
    if lines:
        table = root / "captions.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        table = root / "captions.csv"
        head = ",".join(rows[0])
        cells = ["\n" + ",".join(f'"{v}"' for v in row.values()) for row in rows]
        table.write_text(head + "".join(cells) + "\n")
    return table


def fake_coco(root: Path, images: int = 12, side: int = 24) -> Path:
    """``annotations/captions_{train,val}2017.json``, two captions a picture; returns the folder of these."""
    for part in ("train", "val"):
        folder = root / f"{part}2017"
        folder.mkdir(parents=True)
        entries: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        for i in range(images):
            colour, shape = list(COLOURS)[i % 4], SHAPES[i // 4 % 4]
            name = f"{i:012d}.jpg"
            picture(colour, shape, side, shade=i).save(folder / name)
            entries["images"].append({"id": 7 * i, "file_name": name, "height": side, "width": side + 4})
            for text in (f"A {shape} that is {colour}.", f"something {colour} "):
                entries["annotations"].append(
                    {"id": len(entries["annotations"]), "image_id": 7 * i, "caption": text}
                )
        (root / "annotations").mkdir(exist_ok=True)
        path = root / "annotations" / f"captions_{part}2017.json"
        path.write_text(json.dumps({"info": {}, **entries}))
    return root / "annotations"


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_coco(root)
    small = {"patch_size": 8, "width": 16, "layers": 1, "heads": 2, "text_width": 16, "text_layers": 1,
             "text_heads": 2, "projection": 8}  # fmt: skip
    return {
        "data.init_args.tokenizer": None, "data.init_args.batch_size": 8, "data.init_args.num_workers": 0,
        "data.init_args.size": 16, "model.init_args.vocab_size": 64, "trainer.precision": 32,
        "model.init_args.shape": "free", **{f"model.init_args.{k}": v for k, v in small.items()},
    }  # fmt: skip


TWINS = {"datamodules.ImageCaptions": _twin}
WITHOUT_FILES = {"datamodules.ImageCaptions": lambda given: given.get("layout", "glyphs") == "glyphs"}
