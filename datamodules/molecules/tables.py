"""Tables of molecules: a column of SMILES, columns of targets, and nothing else of the file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from datamodules.loading.files import check_claim, one_line
from datamodules.loading.tables import cut, number_of
from datamodules.molecules.smiles import Salts, read_smiles
from datamodules.molecules.smiles_files import text_lines

Array = np.ndarray[Any, Any]
Task = Literal["regression", "classification"]
MISSING = ("", "na", "n/a", "nan", "null", "none")
"""What stands for no measurement, in capitals or not."""
_LINE, _ROWS = 2**20, 10**7
_FARTHEST = 1e15  # its square, and sums of such, are numbers of single precision


@dataclass
class MoleculeRows:
    """Rows of a table that hold a molecule.

    Attributes:
        rows: number of each row in the file, from 0 and without the header: what ``splits.json`` counts.
        lines: line of the file.
        smiles: canonical SMILES.
        target: float64 (N, T), NaN where nothing was measured.
        cells: of a further column, such as that of an official split; empty without one.
        count: rows of the file.
    """

    rows: list[int]
    lines: list[int]
    smiles: list[str]
    target: Array
    cells: list[str]
    count: int


def read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a comma-separated file with quotes where a cell has a comma; empty lines are left out.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, too large, or no such table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    check_claim(path, "the file", path.stat().st_size)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(_lines(path, file), strict=True)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, [cell.strip() for cell in cells]
                if reader.line_num > _ROWS:
                    raise ValueError(f"{path}: more than {_ROWS:,} lines")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}, after line {reader.line_num}: no text (UTF-8): {error.reason}"
                + "; unpack it first" * (path.suffix == ".gz")
            ) from None
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {reader.line_num}: no comma-separated row ({one_line(error)})"
            ) from None


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(_LINE + 1):
        if len(line) > _LINE:
            raise ValueError(f"{path}: a line of more than {_LINE:,} characters, no table of molecules")
        if "\0" in line:
            raise ValueError(f"{path}: a zero byte, no table of molecules")
        yield line


def column_of(path: Path, header: Sequence[str], name: str, key: str) -> int:
    """Where a column stands.

    Raises:
        ValueError: naming the file's columns and the YAML key.
    """
    if not header:
        raise ValueError(f"{path} is empty; its first line must name columns, {name!r} among them")
    known = [other.lower() for other in header]
    if (count := known.count(name.lower())) != 1:
        others = any(mark in header[0] for mark in ";\t") and len(header) == 1
        raise ValueError(
            f"{path} has {'no' if not count else f'{count}'} column{'s' if count > 1 else ''} {name!r} "
            f"(data.init_args.{key}); it has {cut(', '.join(header), 200)}"
            + "; columns must be separated by commas"
            * others
        )
    return known.index(name.lower())


def target_columns(path: Path, header: Sequence[str], smiles: str, given: Sequence[str] | None) -> list[str]:
    """Names of the target columns: those given, else the only other one."""
    if given is not None:
        if not given or len(set(given)) != len(given):
            raise ValueError(f"data.init_args.targets must name columns, each once, got {list(given)}")
        if smiles.lower() in (name.lower() for name in given):
            raise ValueError(f"data.init_args.targets names {smiles!r}, the column of the SMILES")
        for name in given:
            column_of(path, header, name, "targets")
        return list(given)  # as the model and weights call them, whatever the file's capitals are
    others = [name for name in header if name.lower() != smiles.lower()]
    if len(others) != 1:
        raise ValueError(
            f"{path} has {len(others)} columns beside {smiles!r}: say with data.init_args.targets which are "
            f"to be predicted; it has {cut(', '.join(header), 200)}"
        )
    return others


def value_of(cell: str, task: Task) -> float:
    """A target's cell as a number, NaN where it is missing.

    Raises:
        ValueError: for a text, infinity, a number beyond 1e15, or a class other than 0 and 1.
    """
    if cell.lower() in MISSING:
        return math.nan
    if task == "classification":
        return _label(cell)
    value = number_of(cell)
    if not abs(value) <= _FARTHEST:
        raise ValueError(cell)
    return value


def _label(cell: str) -> float:
    value = {"true": 1.0, "false": 0.0}.get(cell.lower())
    value = number_of(cell) if value is None else value
    if value not in (0.0, 1.0):
        raise ValueError(cell)
    return value


def read_molecules(
    path: Path,
    smiles: str,
    targets: Sequence[str] | None,
    task: Task,
    salts: Salts = "keep",
    column: str | None = None,
) -> tuple[MoleculeRows, list[str]]:
    """Molecules of a table and the names of their targets.

    Rows that hold no molecule, or nothing measured, are left out and told on the terminal.

    Args:
        path: of the table, whose first line names its columns.
        smiles: name of the column of SMILES.
        targets: names of the columns to predict; None is the only other one.
        task: what a target's cell may be.
        salts: what becomes of several fragments.
        column: name of a further column, whose cells are given.

    Raises:
        FileNotFoundError, ValueError: one line with file, line and column.
    """
    rows = read_csv(path)
    _, header = next(rows, (0, []))
    place = column_of(path, header, smiles, "smiles")
    names = target_columns(path, header, smiles, targets)
    places = [column_of(path, header, name, "targets") for name in names]
    further = None if column is None else column_of(path, header, column, "split_column")
    texts: list[tuple[int, str]] = []
    lines: list[int] = []
    values: list[list[float]] = []
    cells_of: list[str] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {line}: {len(cells)} cells, its first line has {len(header)}")
        texts.append((line, cells[place]))
        lines.append(line)
        values.append(
            [_value(path, line, name, cells[p], task) for name, p in zip(names, places, strict=True)]
        )
        cells_of.append("" if further is None else cells[further])
    found = read_smiles(texts, salts)
    number = {line: i for i, line in enumerate(lines)}
    for line in found.rows:
        if all(math.isnan(v) for v in values[number[line]]):
            found.skip(line, "nothing measured", texts[number[line]][1])
    left = set(found.skipped.get("nothing measured", ()))
    kept = [(number[line], s) for line, s in zip(found.rows, found.smiles, strict=True) if line not in left]
    found.tell(path.name)
    if not kept:
        raise ValueError(f"{path}: none of its {len(texts)} rows holds a molecule with a target")
    index = [i for i, _ in kept]
    target = np.array([values[i] for i in index], dtype=np.float64)
    further_cells = [cells_of[i] for i in index] if column is not None else []
    return MoleculeRows(
        index, [lines[i] for i in index], [s for _, s in kept], target, further_cells, len(texts)
    ), names


def _value(path: Path, line: int, name: str, cell: str, task: Task) -> float:
    try:
        return value_of(cell, task)
    except ValueError:
        wanted = (
            f"a number up to {_FARTHEST:g}"
            if task == "regression"
            else "0 or 1 (data.init_args.task: classification)"
        )
        raise ValueError(
            f"{path}, line {line}, column {cut(name)}: {cut(cell)} is not {wanted}; a missing value is left "
            "empty"
        ) from None


def read_smiles_file(path: Path, smiles: str, salts: Salts = "keep") -> tuple[list[int], list[str]]:
    """(lines, canonical SMILES) of what is to be predicted: a table with the column, or one SMILES a line.

    A file that ends in ``.smi``, ``.smiles`` or ``.txt``, gzipped or not, has no header, and what follows a
    blank is a name.
    """
    if path.name.lower().removesuffix(".gz").endswith((".smi", ".smiles", ".txt")):
        texts = [(number, line.strip()) for number, line in text_lines(path)]
    else:
        rows = read_csv(path)
        _, header = next(rows, (0, []))
        place = column_of(path, header, smiles, "smiles")
        texts = []
        for line, cells in rows:
            if len(cells) != len(header):
                raise ValueError(f"{path}, line {line}: {len(cells)} cells, its first line has {len(header)}")
            texts.append((line, cells[place]))
    found = read_smiles(texts, salts)
    found.tell(path.name)
    if not found.rows:
        raise ValueError(f"{path}: none of its {len(texts)} rows holds a molecule")
    return found.rows, found.smiles
