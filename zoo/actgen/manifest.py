"""The table of all generated images of a run: a row each, from which a resumed run rebuilds its set."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from zoo.reports import replace_file

NAME = "manifest.csv"
_MOST_BYTES = 2**30
_LONGEST_TEXT = 1000


@dataclass(frozen=True)
class Row:
    """One generated image.

    Attributes:
        path: of its PNG, relative to the table.
        label: class by number.
        epoch: after which it was made.
        position: in the round.
        guide: number of the guide in its part of the data.
        kind: ``random``, ``guided`` or ``image_to_image``.
        adversarial: 1 where it was pushed against the classifier.
        contrastive: stored latents that it was kept from.
        seed: of its noise.
        strength: centre of the guidance in steps, or strength of image to image; 0 of plain images.
        guidance: scale of the classifier-free guidance.
        steps: of the sampler.
        step_size: by which the embeddings moved.
        hardness: cross entropy of the classifier that asked for it.
        predicted: class of that classifier.
        judged: class of an independent classifier; -1 without one.
        status: ``used``, or why it is not trained on.
        prompt: what the generator was asked.
        sha256: of the PNG.
        round_key: of the classifier, generator and settings that made it.
    """

    path: str
    label: int
    epoch: int
    position: int
    guide: int
    kind: str
    adversarial: int
    contrastive: int
    seed: int
    strength: float
    guidance: float
    steps: int
    step_size: float
    hardness: float
    predicted: int
    judged: int
    status: str
    prompt: str
    sha256: str
    round_key: str

    @property
    def used(self) -> bool:
        """Whether it is trained on."""
        return self.status == "used"

    def stored(self) -> str | None:
        """Name of the file of its latent, of guided images alone."""
        return f"{self.path.removesuffix('.png')}.safetensors" if self.kind == "guided" else None


COLUMNS = tuple(f.name for f in fields(Row))
_KINDS = ("random", "guided", "image_to_image")
_STATUS = ("used", "nan", "constant", "duplicate")


def text_of(rows: Sequence[Row], head: bool = True) -> str:
    """CSV; floats as Python repeats them, so that they are read to the bit."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if head:
        writer.writerow(COLUMNS)
    writer.writerows(dataclasses.astuple(row) for row in rows)
    return file.getvalue()


def digest(rows: Sequence[Row]) -> str:
    """SHA-256 of the rows."""
    return hashlib.sha256(text_of(rows).encode()).hexdigest()


def write(path: Path, rows: Sequence[Row]) -> None:
    """The whole table, or nothing."""
    replace_file(path, text_of(rows))


def read(path: Path, torn: bool = False) -> list[Row]:
    """The rows of a table.

    Args:
        path: of the file.
        torn: leave out a last line that is not whole, which a kill may leave in the part of a round.

    Raises:
        FileNotFoundError, ValueError: one line with the file and the line's number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: the generated images of the run are listed there")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, no table of generated images")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text (UTF-8), byte {error.start + 1}") from None
    if torn and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    rows: list[Row] = []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        head = next(reader, [])
        if tuple(head) != COLUMNS:
            raise ValueError(f"{path} begins with other columns than {', '.join(COLUMNS[:4])}, ...")
        rows += [_row(cells, path, reader.line_num) for cells in reader]
    except csv.Error as error:
        raise ValueError(f"{path} is no readable table ({error})") from None
    return rows


def _row(cells: Sequence[str], path: Path, line: int) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{path}, line {line}: {len(cells)} cells, expected {len(COLUMNS)}")
    values: dict[str, Any] = {}
    for field, cell in zip(fields(Row), cells, strict=True):
        values[field.name] = _value(str(field.type), field.name, cell, f"{path}, line {line}")
    row = Row(**values)
    parts = PurePosixPath(row.path).parts
    if not parts or row.path.startswith("/") or ".." in parts or not row.path.endswith(".png"):
        raise ValueError(f"{path}, line {line}: {row.path[:60]!r} is no picture beside the table")
    if row.kind not in _KINDS or row.status not in _STATUS:
        raise ValueError(f"{path}, line {line}: kind {row.kind[:20]!r} or status {row.status[:20]!r} is none")
    return row


def _value(kind: str, name: str, cell: str, where: str) -> Any:
    if kind == "str":
        if len(cell) > _LONGEST_TEXT or "\0" in cell:
            raise ValueError(f"{where}, column {name}: a text of {len(cell):,} characters")
        return cell
    try:
        if len(cell) > 40 or "_" in cell:
            raise ValueError(cell)
        value = int(cell) if kind == "int" else float(cell)
    except ValueError:
        raise ValueError(f"{where}, column {name}: {cell[:30]!r} is no number") from None
    low = -1 if name == "judged" else 0
    if kind == "int" and not low <= value < 2**63:
        raise ValueError(f"{where}, column {name}: {cell} is out of its range")
    if kind == "float" and not math.isfinite(value) and name != "hardness":
        raise ValueError(f"{where}, column {name}: {cell} is no finite number")
    return value


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
