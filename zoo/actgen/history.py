"""What the rounds of a run were: in numbers, as ``rounds.csv`` and curves, and a sheet of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.actgen.manifest import Row
from zoo.actgen.report import draw_rounds, draw_sheet
from zoo.reports import replace_file

_SHOWN = 24


def in_numbers(rows: Sequence[Row], generated: int, initial: int) -> dict[str, Any]:
    """A round, None where it has no such number.

    Args:
        rows: of its images.
        generated: images that the run trains on so far.
        initial: real ones that it began with.
    """
    judged = [r.judged == r.label for r in rows if r.judged >= 0]
    finite = [r.hardness for r in rows if r.status != "nan"]
    return {
        "made": len(rows),
        "used": sum(r.used for r in rows),
        "adversarial": sum(r.adversarial for r in rows),
        "plain": sum(r.kind == "random" for r in rows),
        "generated": generated,
        "ratio": generated / initial,
        "hardness": sum(finite) / len(finite) if finite else None,
        "consistency": sum(judged) / len(judged) if judged else None,
    }


def refusals(rows: Sequence[Row]) -> str:
    """How many images of a round were refused, and why; empty where none was."""
    refused = Counter(r.status for r in rows if not r.used)
    words = ", ".join(f"{n} {name}" for name, n in sorted(refused.items()))
    return f"{sum(refused.values())} of {len(rows)} images refused ({words})" if refused else ""


def write_rounds(
    folder: Path,
    rounds: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    names: Sequence[str],
    seconds: float,
) -> None:
    """``rounds.csv`` with seconds an image, ``rounds.png``, and a sheet of the last round.

    Args:
        folder: ``generated`` of the run.
        rounds: all so far.
        rows: images of the last one.
        names: of the classes.
        seconds: of the last one.
    """
    path = folder / "rounds.csv"
    last = str(rounds[-1]["epoch"])
    spent = _seconds(path) | {last: (f"{seconds:.3f}", f"{seconds / len(rows):.4f}")}
    head = [*rounds[-1], "seconds", "seconds_per_image"]
    lines = [[*r.values(), *spent.get(str(r["epoch"]), ("", ""))] for r in rounds]
    text = "\n".join(",".join("" if x is None else str(x) for x in line) for line in [head, *lines])
    replace_file(path, text + "\n")
    draw_rounds(folder / "rounds.png", rounds)
    sheet(folder, rows, names)


def _seconds(path: Path) -> dict[str, tuple[str, str]]:
    """By epoch, of a table that was written before."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    cells = [line.split(",") for line in lines[1:]]
    return {c[0]: (c[-2], c[-1]) for c in cells if len(c) > 2}


def sheet(folder: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
    """The first images of a round beside their guides."""
    shown = [r for r in rows if r.status != "nan" and r.kind != "random"][:_SHOWN]
    if not shown:
        return
    guides: list[Tensor] = []
    images: list[Tensor] = []
    for row in shown:
        stem = row.path.removesuffix(".png")
        for held, name in ((guides, f"{stem}_ori.png"), (images, row.path)):
            held.append(_read(folder / name))
    masks = torch.ones(len(shown), 1, 1, 1)
    marks = {"used": "", "constant": " (constant)", "duplicate": " (copy)"}
    captions = [f"{names[r.label]}: {r.hardness:.2f}{marks[r.status]}" for r in shown]
    path = folder / f"epoch_{shown[0].epoch:04d}.png"
    draw_sheet(path, guides, masks, images, captions, f"after epoch {shown[0].epoch}")


def _read(path: Path) -> Tensor:
    """Of this run's own pictures, (C, S, S) in [0, 1]."""
    from PIL import Image

    pixels = torch.from_numpy(np.array(Image.open(path), copy=True)).float() / 255
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
