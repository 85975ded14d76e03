"""Files of SMILES: one a line, or a column of a table, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from datamodules.loading.files import check_claim, one_line
from datamodules.loading.limits import limit
from datamodules.loading.tables import cut

_LINE = 2**20
"""Bytes of the longest line."""
_LIMIT = 4 * 2**30
"""Bytes of a file, unpacked."""


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line of a file in UTF-8, ``.gz`` unpacked as it is read.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged, too large, or no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    check_claim(path, "the file", path.stat().st_size)
    number = total = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as opened:
            file: IO[bytes] = opened  # type: ignore[assignment]
            while raw := file.readline(_LINE + 1):
                number, total = number + 1, total + len(raw)
                if len(raw) > _LINE or total > limit(_LIMIT):
                    raise ValueError(f"{path}, line {number}: more bytes than a file of SMILES has")
                try:
                    yield number, raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    raise ValueError(f"{path}, line {number}: no text (UTF-8)") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: a damaged gzip file ({one_line(error)})") from None


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells by column) of a CSV whose first line names its columns; quoted cells as RFC 4180 has them.

    Raises:
        FileNotFoundError, ValueError: as :func:`text_lines`, and for a row of another width.
    """
    lines = text_lines(path)
    reader = csv.reader((text + "\n" for _, text in lines), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, its first line has {len(header)}"
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {one_line(error)}") from None


def column_of(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """(line, cell) of one column of a CSV, found in capitals or not.

    Raises:
        FileNotFoundError, ValueError: as :func:`table_rows`, and for a table without it.
    """
    name = ""
    for line, row in table_rows(path):
        if not name:
            known = {key.lower(): key for key in row}
            if column.lower() not in known:
                raise ValueError(
                    f"{path} has no column {column!r}; its first line is {cut(','.join(row), 80)}"
                )
            name = known[column.lower()]
        yield line, row[name]
    if not name:
        raise ValueError(f"{path} has no rows")


def is_table(path: Path) -> bool:
    """Whether a name is that of a CSV."""
    return path.name.lower().endswith((".csv", ".csv.gz"))


def check_column(file: str | None, column: str, default: str) -> None:
    """Refuse a column of a file that has none.

    Raises:
        ValueError: naming both.
    """
    if file is not None and column != default and not is_table(Path(file)):
        raise ValueError(
            f"data.init_args.column is {column}, which is of a .csv and which file: {file} does not use; "
            f"leave it out (its default is {default})"
        )


def smiles_of(path: Path, column: str = "smiles") -> Iterator[tuple[int, str]]:
    """(line, SMILES) of a file: the ``column`` of a CSV, else the first word of each line that has one.

    Raises:
        FileNotFoundError, ValueError: for a file that cannot be read.
    """
    if is_table(path):
        yield from column_of(path, column)
        return
    for number, text in text_lines(path):
        if words := text.split(maxsplit=1):
            yield number, words[0]
