"""QM9 as the package qm9pack has it: three csv files whose cells may be lists as Python writes them."""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datamodules.loading.files import check_claim
from datamodules.loading.tables import cut, number_of
from datamodules.molecules.atoms import SYMBOLS, Array

FILES = ("qm9_part1.csv", "qm9_part2.csv", "qm9_part3.csv")
_LINE = 2**16
_LISTS = ("SMILES", "N_atoms", "Elements", "XYZ_Ang")
_NUMBER = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}


def folder_of(root: Path) -> Path:
    """Where the three files are: in ``root``, else in the installed package, which is not imported."""
    if not (root / FILES[0]).is_file():
        spec = importlib.util.find_spec("qm9pack")
        for place in spec.submodule_search_locations or () if spec else ():
            if (Path(place) / "data" / FILES[0]).is_file():
                return Path(place) / "data"
    return root


def read_molecules(path: Path, names: Sequence[str]) -> Iterator[tuple[Array, Array, list[float], str]]:
    """Atomic numbers (n,), Angstrom (n, 3), the numbers of these columns, and the SMILES of each molecule.

    Raises:
        ValueError: naming file, line and column of what cannot be read.
    """
    check_claim(path, "the file", path.stat().st_size)
    needed = (*_LISTS, *names)
    with path.open("rb") as file:
        header = _cells(path, 1, file.readline(_LINE + 1))
        for name in needed:
            if header.count(name) != 1:
                raise ValueError(
                    f"{path} has {'two columns' if name in header else 'no column'} {name!r}; its first line "
                    f"is {cut(','.join(header), 80)}"
                )
        places = [header.index(name) for name in needed]
        number = 1
        while raw := file.readline(_LINE + 1):
            number += 1
            cells = _cells(path, number, raw)
            if len(cells) != len(header):
                raise ValueError(
                    f"{path}, line {number}: {len(cells)} cells, its first line has {len(header)}"
                )
            smiles, count, elements, places_of, *values = (cells[place] for place in places)
            where = f"{path}, line {number}, column"
            z = _elements(elements, f"{where} 'Elements'")
            pos = _coordinates(places_of, f"{where} 'XYZ_Ang'")
            if not len(z) == len(pos) or count != str(len(z)):
                raise ValueError(
                    f"{path}, line {number}: N_atoms is {cut(count)}, Elements are {len(z)}, "
                    f"XYZ_Ang {len(pos)}"
                )
            found = [_number(v, f"{where} {n!r}") for n, v in zip(names, values, strict=True)]
            yield z, pos, found, smiles


def _cells(path: Path, number: int, raw: bytes) -> list[str]:
    if len(raw) > _LINE:
        raise ValueError(f"{path}, line {number}: more than {_LINE:,} bytes without an end")
    try:
        text = raw.decode("ascii").rstrip("\r\n")
        (row,) = csv.reader([text], strict=True)
    except (ValueError, csv.Error):
        raise ValueError(f"{path}, line {number}: no row of a csv file ({cut(repr(raw[:60]))})") from None
    return row


def _number(text: str, where: str) -> float:
    """A number, which may end in a point or have Fortran's exponent ``*^``."""
    try:
        value = number_of(text.strip().replace("*^", "e"))
    except ValueError:
        raise ValueError(f"{where}: {cut(text)} is no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{where}: {cut(text)} is no finite number")
    return value


def _elements(text: str, where: str) -> Array:
    """``['C','H']`` as atomic numbers."""
    words = text.strip()[1:-1].split(",")
    try:
        if not (text.strip()[:1] == "[" and text.strip()[-1:] == "]"):
            raise KeyError
        return np.array([_NUMBER[w.strip()[1:-1]] for w in words if _quoted(w.strip())], np.int64)
    except KeyError:
        raise ValueError(f"{where}: {cut(text)} is no list of elements") from None


def _quoted(word: str) -> bool:
    if len(word) < 3 or word[0] not in "'\"" or word[-1] != word[0]:
        raise KeyError(word)
    return True


def _coordinates(text: str, where: str) -> Array:
    """``[[x,y,z],[x,y,z]]`` in Angstrom."""
    inner = "".join(text.split())
    if not (inner.startswith("[[") and inner.endswith("]]")):
        raise ValueError(f"{where}: {cut(text)} is no list of coordinates")
    rows = [row.split(",") for row in inner[2:-2].split("],[")]
    if any(len(row) != 3 for row in rows):
        raise ValueError(f"{where}: {cut(text)} has an atom without three coordinates")
    return np.array([[_number(x, where) for x in row] for row in rows], np.float64)
