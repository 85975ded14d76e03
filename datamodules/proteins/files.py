"""Sequences from files: modlamp's peptides, FASTA, tables. All readers are bounded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.tables import cut, number_of, read_rows
from datamodules.molecules.smiles_files import table_rows, text_lines
from datamodules.proteins.residues import cleaned
from datamodules.text.records import package_folder

Array = np.ndarray[Any, Any]
Spans = tuple[tuple[int, int], ...]
PEPTIDES = "AMPvsUniProt.csv"
PEPTIDE_TARGET = "antimicrobial"
_IN_MEMORY = 256 * 2**20
"""Bytes of a FASTA file that is kept in memory; a larger one is read item by item."""


@dataclass
class Records:
    """Rows of a file.

    Attributes:
        sequences: cleaned.
        target: float64 (N, T), NaN where a cell is empty.
        names: of the targets.
        spans: entities of each sequence, from 0; empty without.
        labels: what the file calls each sequence; empty without.
        lines: of each row, from 1.
    """

    sequences: Sequence[str]
    target: Array
    names: list[str]
    spans: list[Spans] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def read_peptides() -> tuple[Path, Records]:
    """modlamp's AMPvsUniProt: antimicrobial peptides against others of UniProt. The package is not imported.

    The first line has counts and names of classes; a label may carry a blank.

    Raises:
        ImportError: naming the extra that installs it.
        ValueError: for a damaged file, one line.
    """
    path = package_folder("modlamp", "language") / "data" / PEPTIDES
    rows = read_rows(path)
    number, head = next(rows, (0, []))
    if len(head) != 4 or not all(cell.isdigit() for cell in head[:2]):
        raise ValueError(f"{path}: its first line must be counts and two names of classes")
    sequences, labels, lines = [], [], []
    for number, cells in rows:
        if len(cells) != 2 or cells[1].strip() not in ("0", "1"):
            raise ValueError(f"{path}, line {number}: expected are a sequence and the label 0 or 1")
        sequences.append(_cleaned(cells[0], path, number))
        labels.append(float(cells[1]))
        lines.append(number)
    if len(sequences) != int(head[0]):
        raise ValueError(f"{path} claims {head[0]} peptides and has {len(sequences)}")
    return path, Records(sequences, np.array(labels)[:, None], [PEPTIDE_TARGET], lines=lines)


def _cleaned(text: str, path: Path, line: int, blanks: bool = False) -> str:
    try:
        found = cleaned(text, blanks)
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from None
    if not found:
        raise ValueError(f"{path}, line {line}: an empty sequence")
    return found


# --- tables -----------------------------------------------------------------------------------------------


def read_table(
    path: Path,
    sequence: str,
    targets: Sequence[str] | None,
    classes: bool,
    entities: str | None,
    blanks: bool = False,
) -> Records:
    """A CSV with a column of sequences.

    Args:
        path: plain or gzipped; its first line names its columns.
        sequence: the column.
        targets: columns of numbers; null is the only one beside the sequences and entities; [] has none.
        classes: whether targets are 0 and 1.
        entities: column of spans such as ``3-9;15-20``, counted from 1, both ends in.
        blanks: whether ``_`` may stand for a residue.

    Raises:
        FileNotFoundError, ValueError: with file and line.
    """
    found = Records([], np.empty((0, 0)), [])
    rows: list[list[float]] = []
    for line, row in table_rows(path):
        if not found.sequences:
            found.names = _columns(path, row, sequence, targets, entities)
        text = _cleaned(row[sequence], path, line, blanks)
        found.sequences.append(text)  # type: ignore[attr-defined]
        found.lines.append(line)
        rows.append(
            [_number(row[name], classes, f"{path}, line {line}, column {cut(name)}") for name in found.names]
        )
        if entities is not None:
            found.spans.append(
                _spans(row[entities], len(text), f"{path}, line {line}, column {cut(entities)}")
            )
        if "id" in row and sequence != "id":
            found.labels.append(row["id"])
    if not found.sequences:
        raise ValueError(f"{path} has no rows")
    found.target = np.array(rows, dtype=np.float64).reshape(len(rows), len(found.names))
    return found


def _columns(
    path: Path, row: dict[str, str], sequence: str, targets: Sequence[str] | None, entities: str | None
) -> list[str]:
    """The targets of a table, whose first row is ``row``."""
    others = [name for name in row if name not in (sequence, entities, "id")]
    for name in (sequence, entities, *(targets or ())):
        if name is not None and name not in row:
            raise ValueError(f"{path} has no column {cut(name)}; its first line is {cut(','.join(row), 80)}")
    if targets is not None:
        return list(targets)
    if len(others) != 1:
        raise ValueError(
            f"{path} has {len(others)} columns beside {cut(sequence)}: name those to predict with "
            "data.init_args.targets"
        )
    return others


def _number(cell: str, classes: bool, where: str) -> float:
    cell = cell.strip()
    if not cell:
        return math.nan
    try:
        value = number_of(cell)
    except ValueError:
        raise ValueError(f"{where}: {cut(cell)} is no number") from None
    if not math.isfinite(value) or (classes and value not in (0.0, 1.0)):
        raise ValueError(f"{where}: {cut(cell)} is no {'label 0 or 1' if classes else 'finite number'}")
    return value


def _spans(cell: str, length: int, where: str) -> Spans:
    found = []
    for part in cell.split(";") if cell.strip() else ():
        first, _, last = part.strip().partition("-")
        if not (
            first.isdigit() and (last or first).isdigit() and 1 <= int(first) <= int(last or first) <= length
        ):
            raise ValueError(f"{where}: {cut(part)} is no span within 1-{length}, such as 3-9")
        found.append((int(first) - 1, int(last or first)))
    return tuple(found)


# --- FASTA ------------------------------------------------------------------------------------------------


class FastaFile(Sequence[str]):
    """The sequences of a large FASTA file, each read when it is asked for.

    Args:
        path: plain.
        starts: int64 (N,) byte at which each sequence begins.
        sizes: int64 (N,) bytes of each, ends of lines among them.
        lengths: int64 (N,) residues of each.
    """

    def __init__(self, path: Path, starts: Array, sizes: Array, lengths: Array) -> None:
        self.path, self.starts, self.sizes, self.lengths = path, starts, sizes, lengths
        self._file: int | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        # loader processes share the file's position, which this does not touch
        raw = os.pread(self._file, int(self.sizes[index]), int(self.starts[index]))
        return cleaned(raw.decode("ascii", "replace"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def read_fasta(path: Path, blanks: bool = False, unique: bool = True) -> tuple[Sequence[str], list[str], int]:
    """(sequences, their first words, records that repeat one) of a FASTA file, plain or gzipped.

    Where they are to be ``unique``, a sequence that was seen before is left out. Of a file beyond 256 MiB
    (UniRef50), which must be plain, the places alone are kept, and names are not.

    Raises:
        FileNotFoundError, ValueError: with file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; expected is FASTA, plain or .gz (UniRef50: uniref50.fasta.gz of "
            "ftp.uniprot.org, unpacked)"
        )
    if path.suffix != ".gz" and path.stat().st_size > _IN_MEMORY:
        return _large(path)
    sequences: list[str] = []
    names: list[str] = []
    seen: set[str] = set()
    repeated = 0
    for name, text, line in _records(path):
        found = _cleaned(text, path, line, blanks)
        if unique and found in seen:
            repeated += 1
            continue
        seen.add(found)
        sequences.append(found)
        names.append(name)
    if not sequences:
        raise ValueError(f"{path} holds no record: FASTA has a line '>name', then lines of residues")
    return sequences, names, repeated


def _records(path: Path) -> Iterator[tuple[str, str, int]]:
    """(first word, residues, line of the head) of each record."""
    name, parts, begun, number = "", list[str](), 0, 0
    for number, text in text_lines(path):
        if text.startswith(">"):
            if begun:
                yield name, "".join(parts), begun
            name, parts, begun = (text[1:].split(maxsplit=1) or [""])[0], [], number
        elif text.strip() and not text.startswith(";"):
            if not begun:
                raise ValueError(
                    f"{path}, line {number}: residues before the first line that begins with '>'"
                )
            parts.append(text)
    if begun:
        yield name, "".join(parts), begun


def _large(path: Path) -> tuple[FastaFile, list[str], int]:
    starts, sizes, lengths, digests = [], [], [], []
    place, begin, line, head = 0, -1, 0, 0
    parts: list[bytes] = []

    def finish(end: int) -> None:
        if begin < 0:
            return
        text = _cleaned(b"".join(parts).decode("ascii", "replace"), path, head)
        starts.append(begin)
        sizes.append(end - begin)
        lengths.append(len(text))
        digests.append(int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little"))

    with path.open("rb") as file:
        while raw := file.readline(2**20 + 1):
            line += 1
            if len(raw) > 2**20:
                raise ValueError(f"{path}, line {line}: more bytes than a line of FASTA has")
            if raw.startswith(b">"):
                finish(place)
                begin, head, parts = place + len(raw), line, []
            elif begin < 0 and raw.strip():
                raise ValueError(f"{path}, line {line}: residues before the first line that begins with '>'")
            else:
                parts.append(raw)
            place += len(raw)
    finish(place)
    if not starts:
        raise ValueError(f"{path} holds no record: FASTA has a line '>name', then lines of residues")
    first = np.sort(np.unique(np.array(digests, dtype=np.uint64), return_index=True)[1])
    columns = (np.array(c, dtype=np.int64)[first] for c in (starts, sizes, lengths))
    return FastaFile(path, *columns), [], len(starts) - len(first)
