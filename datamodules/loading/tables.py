"""Text tables of others, line by line: csv of sensors, the files of TU Dortmund.

A line has a limit, so that a file without an end of line is refused before it is held; a byte order mark,
blanks around cells and quotes are taken off, as other tools write them. What cannot be read is named with
file, line and column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.files import Array, check_claim

_LINE = 16 * 2**20
"""Bytes of the longest line."""
_MARK = b"\xef\xbb\xbf"
Row = tuple[int, list[str]]
"""(number of the line, from 1; its cells)"""


def cut(text: str, length: int = 30) -> str:
    """A cell as it is shown in a message."""
    return repr(text if len(text) <= length else text[:length] + "...")


def read_rows(path: Path, delimiter: str = ",") -> Iterator[Row]:
    """The lines of a text table as cells; empty lines may stand at its end alone.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, too large, or no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    check_claim(path, "the file", path.stat().st_size)
    empty, number = 0, 0
    with path.open("rb") as file:
        while raw := file.readline(_LINE + 1):
            number += 1
            if len(raw) > _LINE:
                raise ValueError(
                    f"{path}, line {number}: more than {_LINE:,} bytes without an end, no text table"
                )
            try:
                text = raw.removeprefix(_MARK if number == 1 else b"").decode("utf-8").strip(" \t\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: byte {error.start + 1} is no text (UTF-8)"
                ) from None
            if not text:
                empty = empty or number
                continue
            if empty:
                raise ValueError(f"{path}, line {empty}: empty, but lines follow")
            yield number, [cell.strip().strip('"').strip() for cell in text.split(delimiter)]


def number_of(cell: str) -> float:
    """A cell as a number.

    Raises:
        ValueError: for what is none; ``1_000`` is none here either.
    """
    if "_" in cell or len(cell) > 400:
        raise ValueError(cell)
    return float(cell)


def whole_number_of(cell: str) -> int:
    """A cell as a whole number of 64 bits.

    Raises:
        ValueError: for what is none.
    """
    if "_" in cell or len(cell) > 20:
        raise ValueError(cell)
    value = int(cell)
    if not -(2**63) <= value < 2**63:
        raise ValueError(cell)
    return value


def numbers(
    path: Path,
    rows: Iterable[Row],
    names: Sequence[str] | None = None,
    whole: bool = False,
    width: int | None = None,
    infinite: bool = False,
) -> Array:
    """Rows of numbers as an array (R, C), float64, or int64 where they are ``whole``.

    Args:
        path: of the file, for the words.
        rows: of :func:`read_rows`.
        names: of the columns, for the words.
        whole: all are whole numbers.
        width: C; None takes that of the first row.
        infinite: infinity is admitted; NaN never is.

    Raises:
        ValueError: naming line and column of a cell that is no such number, or a line of another width.
    """
    parse: Callable[[str], Any] = whole_number_of if whole else number_of
    kind: Any = np.int64 if whole else np.float64
    found: list[Array] = []
    for number, cells in rows:
        width = len(cells) if width is None else width
        if len(cells) != width:
            raise ValueError(f"{path}, line {number}: {len(cells)} cells, expected {width}")
        try:
            row = np.fromiter(map(parse, cells), kind, width)
        except ValueError:
            raise _no_number(path, number, cells, names, parse, whole) from None
        if not whole and not np.isfinite(row).all():
            bad = np.isnan(row) | (np.isinf(row) & (not infinite))
            if bad.any():
                raise _not_finite(path, number, cells, names, int(bad.argmax()))
        found.append(row)
    return np.stack(found) if found else np.empty((0, width or 0), kind)


def _column(names: Sequence[str] | None, place: int) -> str:
    return f"column {place + 1}" if names is None else f"column {cut(names[place])}"


def _no_number(
    path: Path, number: int, cells: list[str], names: Sequence[str] | None, parse: Any, whole: bool
) -> ValueError:
    for place, cell in enumerate(cells):
        try:
            parse(cell)
        except ValueError:
            what = f"{cut(cell)} is no {'whole ' if whole else ''}number" if cell else "an empty cell"
            return ValueError(f"{path}, line {number}, {_column(names, place)}: {what}")
    return ValueError(f"{path}, line {number}: no numbers")


def _not_finite(
    path: Path, number: int, cells: list[str], names: Sequence[str] | None, place: int
) -> ValueError:
    return ValueError(
        f"{path}, line {number}, {_column(names, place)}: {cut(cells[place])} is no finite number"
    )


def is_number(cell: str) -> bool:
    """Whether a cell is a finite number."""
    try:
        return math.isfinite(number_of(cell))
    except ValueError:
        return False


def read_columns(path: Path, *names: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells of these columns) of a table whose first line names its columns, in capitals or not.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, lacks a column, or has a row of another
            width.
    """
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    known = [name.lower() for name in header]
    for name in names:
        if known.count(name) != 1:
            raise ValueError(
                f"{path} has {'two columns' if name in known else 'no column'} {name!r}; its first line is "
                f"{cut(','.join(header), 80)}, needed are {', '.join(names)}"
            )
    places = [known.index(name) for name in names]
    for number, cells in rows:
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {number}: {len(cells)} cells, its first line has {len(header)}")
        yield number, [cells[place] for place in places]
