"""What ``predict_step`` and ``preview`` return, and how it becomes files that a person opens.

One protocol: an object that writes itself (:class:`Report`). The engine calls it batch by batch and knows no
method's own class.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

PARTS = "parts"
"""Folder of the parts of a file that is merged at the end, in that of the predictions."""
_GRID = 100
_ALL_COLUMNS = 40  # with more classes, scores.csv has the best five alone


@rank_zero_only
def say(text: str) -> None:
    """One line for the user."""
    print(f"zoo: {text}", flush=True)


class CannotWrite(OSError):
    """A file cannot be written: the disk is full, the folder is read-only or gone. Names the file.

    ``errno`` is the reason's.
    """


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Give what goes wrong while ``path`` is written the name of the file, which libraries leave out.

    Raises:
        CannotWrite: for an OSError inside, also one that torch's or safetensors' writer wraps.
    """
    try:
        yield
    except CannotWrite:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        named = CannotWrite(f"cannot write {path} ({reason.strerror or reason})")
        named.errno = reason.errno
        raise named from error


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """As :func:`writing`, for a report that writes several files: names the one that was begun last."""
    try:
        with writing(folder):
            yield
    except CannotWrite as error:
        files = [p for p in folder.rglob("*") if p.is_file()] if f"write {folder} (" in str(error) else []
        if not files or error.__cause__ is None:
            raise
        with writing(max(files, key=lambda p: p.stat().st_mtime_ns)):
            raise error.__cause__ from None


def _reason(error: BaseException) -> OSError | None:
    """The operating system's error behind that of a library."""
    if isinstance(error, OSError):
        return error
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return OSError(int(match[1]), os.strerror(int(match[1])))
    if "inline_container" in str(error) or "PytorchStreamWriter" in str(error):  # torch.save
        return error.__context__ if isinstance(error.__context__, OSError) else OSError("torch could not")
    return None


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a small file whole or not at all; the folder must be there."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line, texts as they are."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_records(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A batch's records with ``index``, as a part of what :func:`merged_records` gathers; none write none."""
    if records:
        part = folder / PARTS / f"{int(records[0]['index']):09d}_{os.getpid()}.jsonl"
        replace_file(part, json_lines(records))


def merged_records(folder: Path) -> list[dict[str, Any]]:
    """The records of all parts in the order of ``index``."""
    # a text may hold another character that Python takes for the end of a line
    lines = (line for p in (folder / PARTS).glob("*.jsonl") for line in p.read_text("utf-8").split("\n"))
    return sorted((json.loads(line) for line in lines if line), key=lambda record: int(record["index"]))


@rank_zero_only
def write_protocol(folder: str | None, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """``protocol_test.json``: how each row of a test's table was made.

    Args:
        folder: of the run; without one nothing is written.
        rows: name of a row -> scorer, generation settings, tokenizer and the like.
    """
    if folder is None:
        return
    path = Path(folder) / "protocol_test.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    say(f"protocol    {path}")


@runtime_checkable
class Report(Protocol):
    """What ``predict_step`` returns: a dataclass that writes its own files.

    A class whose batches are parts of one file writes a part per batch and has ``merge(folder)`` too: a
    static method, called once, on the first process, when all processes have written, with the same folder.
    """

    def write(self, folder: Path) -> list[Path]:
        """Write this batch into ``folder``; returns the files or folders that a user should be told of."""
        ...


def class_names_of(module: Any, classes: int) -> list[str]:
    """Names that a module's data give its classes, else 0 to C - 1.

    Raises:
        ValueError: for data that name another number of classes.
    """
    trainer = getattr(module, "_trainer", None)  # `trainer` raises where there is none
    given = getattr(getattr(trainer, "datamodule", None), "class_names", None)
    names = list(given or map(str, range(classes)))
    if len(names) != classes:
        some = ", ".join(names[:5])
        raise ValueError(
            f"model.init_args.num_classes is {classes}, but the data name {len(names)} classes ({some}); "
            "set it alike or choose other data with data.class_path"
        )
    return names


def write_scores(
    path: Path,
    probability: Tensor,
    class_names: Sequence[str],
    names: Sequence[object],
    labels: Tensor | None = None,
    split: Sequence[str] | None = None,
    several: bool = False,
    groups: Sequence[int] = (),
    extra: Mapping[str, Sequence[object]] | None = None,
    append: bool = False,
) -> None:
    """``scores.csv`` of any classifier: ``name,split,label,prediction,score``, then each class's probability.

    Labels and predictions are class names, several of them (and their scores) joined by ``;``. With more than
    40 classes ``top1,score1`` to ``top5,score5`` take the place of their columns; a class that is called like
    another column, ``label`` for instance, has ``class label``.

    Args:
        path: of the file.
        probability: of each class (B, C).
        class_names: C names.
        names: of the items, B numbers or names.
        labels: int64 (B,), or (B, G) one of each group, or multi-hot (B, C); None where unknown.
        split: name of each item's set, empty for none; None where unknown.
        several: an item may have several labels: those with a probability above one half are predicted.
        groups: sizes of groups of classes, of each of which one is predicted.
        extra: further columns, after ``score``.
        append: to what earlier batches wrote.
    """
    classes, extra, every = probability.shape[1], extra or {}, len(class_names) <= _ALL_COLUMNS
    ends = np.cumsum(groups or [classes]).tolist()
    starts = torch.tensor([0, *ends[:-1]])
    best = torch.stack([p.argmax(dim=1) for p in probability.split(list(groups) or classes, dim=1)], dim=1)
    predicted = _indices(probability > 0.5) if several else (best + starts).tolist()
    truth: list[list[int]] = [[]] * len(probability)
    if labels is not None and several:
        truth = _indices(labels > 0)
    elif labels is not None:  # a negative one is none
        given, offsets = labels.view(len(labels), -1).tolist(), starts.tolist()
        truth = [[s + c for s, c in zip(offsets, row, strict=True) if c >= 0] for row in given]
    head = ["name", "split", "label", "prediction", "score", *extra]
    columns = [f"class {name}" if name in head else name for name in class_names]
    if not every:
        columns = [c for i in range(5) for c in (f"top{i + 1}", f"score{i + 1}")]
        top = probability.topk(5, dim=1).indices.tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if append else "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not append:
            writer.writerow([*head, *columns])
        for i, row in enumerate(probability.tolist()):
            said = [";".join(class_names[c] for c in chosen) for chosen in (truth[i], predicted[i])]
            score = ";".join(f"{row[c]:.6f}" for c in predicted[i])
            cells = [f"{p:.6f}" for p in row]
            if not every:
                cells = [x for c in top[i] for x in (class_names[c], f"{row[c]:.6f}")]
            item = [names[i], "" if split is None else split[i], *said, score]
            writer.writerow([*item, *(values[i] for values in extra.values()), *cells])


def _indices(mask: Tensor) -> list[list[int]]:
    """Columns that are true in each row."""
    found: list[list[int]] = [[] for _ in mask]
    for row, column in mask.nonzero().tolist():
        found[row].append(column)
    return found


@dataclass
class GeneratedImages:
    """Images made by a generative model.

    They become ``samples.npz`` in ADM's format (``arr_0`` uint8 (N, H, W, 3), ``arr_1`` labels) and
    ``samples.png``, a sheet of the first 100; latents become ``latents.npz`` (float32 (N, C, S, S)).

    Attributes:
        images: (B, C, H, W) float in [-1, 1]; with C other than 1 or 3 they are latents.
        labels: (B,) requested classes.
        index: (B,) position of each in the whole set.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    @property
    def viewable(self) -> bool:
        """Whether these are pixels, not latents."""
        return self.images.shape[1] in (1, 3)

    def write(self, folder: Path) -> list[Path]:
        """A part of the file that :meth:`merge` makes."""
        values = to_uint8(self.images) if self.viewable else self.images.numpy()
        part = folder / PARTS / f"{int(self.index[0]):09d}_{os.getpid()}.npz"
        np.savez(part, values=values, labels=self.labels.numpy(), index=self.index.numpy())
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``samples.npz`` in ADM's format and ``samples.png``, or ``latents.npz``."""
        parts = sorted((folder / PARTS).glob("*.npz"))
        return merge_parts(parts, folder, _GRID) if parts else []


def to_uint8(images: Tensor) -> np.ndarray[Any, Any]:
    """[-1, 1] (B, C, H, W) -> uint8 (B, H, W, 3), clamp(127.5 x + 128, 0, 255) as ADM and DiT write them."""
    pixels = (127.5 * images.float() + 128).clamp(0, 255).to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def image_grid(
    pixels: np.ndarray[Any, Any], columns: int | None = None, min_side: int = 480
) -> np.ndarray[Any, Any]:
    """uint8 (B, H, W, 3) -> one (H', W', 3) sheet, row by row, small images enlarged by a whole factor."""
    count, height, width, _ = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    gap = 1
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 40, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = image
    factor = max(1, math.ceil(min_side / max(sheet.shape[:2])))
    return sheet.repeat(factor, axis=0).repeat(factor, axis=1)


def save_png(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """Write uint8 (H, W, 3) as PNG."""
    from PIL import Image

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def merge_parts(parts: Sequence[Path], folder: Path, grid: int) -> list[Path]:
    """Merge part files into one npz in order of ``index``; a memory map spares the RAM."""
    indices = [np.load(p)["index"] for p in parts]
    total = sum(map(len, indices))
    rank_of = np.empty(int(max(i.max() for i in indices)) + 1, dtype=np.int64)
    rank_of[np.sort(np.concatenate(indices))] = np.arange(total)
    first = np.load(parts[0])["values"]
    array_path = folder / "arr_0.npy"
    values = np.lib.format.open_memmap(
        array_path, mode="w+", dtype=first.dtype, shape=(total, *first.shape[1:])
    )
    if hasattr(os, "posix_fallocate"):  # on a full disk the memory map would end the process without a word
        with array_path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, array_path.stat().st_size)
    labels = np.empty(total, dtype=np.int64)
    for part, index in zip(parts, indices, strict=True):
        with np.load(part) as data:
            values[rank_of[index]], labels[rank_of[index]] = data["values"], data["labels"]
    values.flush()
    pixels = first.dtype == np.uint8
    outputs = [folder / ("samples.npz" if pixels else "latents.npz")]
    np.save(folder / "arr_1.npy", labels)
    with zipfile.ZipFile(outputs[0], "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in ("arr_0.npy", "arr_1.npy"):
            archive.write(folder / name, name)
            (folder / name).unlink()
    if pixels:
        outputs.append(folder / "samples.png")
        save_png(outputs[1], image_grid(np.asarray(values[:grid])))
    return outputs
