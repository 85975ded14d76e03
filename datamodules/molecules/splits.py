"""Which molecules are trained on: random, by scaffold, by a column, by chemprop's ``splits.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.loading.files import one_line, read_json, written_whole
from datamodules.loading.sampling import item_generator
from datamodules.molecules.chemistry import chem

PARTS = ("train", "val", "test")
Parts = dict[str, list[int]]
"""Positions of the molecules of ``train``, ``val`` and ``test``."""
_RANDOM, _BALANCED, _CALIBRATION = 2101, 2102, 2103
_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def scaffold(smiles: str) -> str:
    """The Bemis-Murcko scaffold without chirality; molecules without a ring share the empty one."""
    return str(
        chem("rdkit.Chem.Scaffolds.MurckoScaffold").MurckoScaffoldSmiles(smiles, includeChirality=False)
    )


def scaffold_groups(smiles: Iterable[str]) -> list[list[int]]:
    """Positions of the molecules of each scaffold, in the order of their first molecules."""
    groups: dict[str, list[int]] = {}
    for i, text in enumerate(smiles):
        groups.setdefault(scaffold(text), []).append(i)
    return list(groups.values())


def scaffold_split(groups: Sequence[list[int]], fractions: Sequence[float]) -> Parts:
    """DeepChem's rule: largest groups first, to train while it fits, then to val, else to test.

    Groups are ordered by (size, first molecule), both falling. A group goes to train if train then holds at
    most its share of all, to val if train and val together hold at most theirs.
    """
    count = sum(map(len, groups))
    limit_train, limit_val = fractions[0] * count, (fractions[0] + fractions[1]) * count
    parts: Parts = {name: [] for name in PARTS}
    for group in sorted(groups, key=lambda g: (len(g), g[0]), reverse=True):
        if len(parts["train"]) + len(group) <= limit_train:
            parts["train"] += group
        elif len(parts["train"]) + len(parts["val"]) + len(group) <= limit_val:
            parts["val"] += group
        else:
            parts["test"] += group
    return parts


def balanced_split(groups: Sequence[list[int]], fractions: Sequence[float], seed: int) -> Parts:
    """chemprop's balanced rule: groups of more than half of val or test first, all shuffled by ``seed``.

    Each goes to train while it fits train's own quota, else to val while it fits val's, else to test.
    """
    count = sum(map(len, groups))
    quota = [share * count for share in fractions]
    large = [g for g in groups if len(g) > quota[1] / 2 or len(g) > quota[2] / 2]
    small = [g for g in groups if not (len(g) > quota[1] / 2 or len(g) > quota[2] / 2)]
    parts: Parts = {name: [] for name in PARTS}
    for number, some in enumerate((large, small)):
        for i in item_generator(seed, _BALANCED, number).permutation(len(some)).tolist():
            group = some[i]
            if len(parts["train"]) + len(group) <= quota[0]:
                parts["train"] += group
            elif len(parts["val"]) + len(group) <= quota[1]:
                parts["val"] += group
            else:
                parts["test"] += group
    return parts


def random_split(count: int, fractions: Sequence[float], seed: int) -> Parts:
    """A permutation of ``seed`` cut in three; train and val are rounded down."""
    order = item_generator(seed, _RANDOM).permutation(count).tolist()
    train, val = int(fractions[0] * count), int(fractions[1] * count)
    return {"train": order[:train], "val": order[train : train + val], "test": order[train + val :]}


def column_split(cells: Sequence[str], lines: Sequence[int], where: str) -> Parts:
    """The sets that a column names: train, val (valid, validation) or test, in capitals or not.

    Raises:
        ValueError: for another word.
    """
    parts: Parts = {name: [] for name in PARTS}
    for i, cell in enumerate(cells):
        name = _NAMES.get(cell.lower())
        if name is None:
            raise ValueError(
                f"{where}, line {lines[i]}: {cell!r} is no set; a cell must be train, val or test"
            )
        parts[name].append(i)
    return parts


def calibration_split(train: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """(rest, calibration) of the training molecules: a random share that no gradient and no choice sees."""
    order = item_generator(seed, _CALIBRATION).permutation(len(train)).tolist()
    held = set(order[: round(share * len(train))])
    return [p for i, p in enumerate(train) if i not in held], [p for i, p in enumerate(train) if i in held]


def read_splits(path: Path, number: int, rows: int) -> Mapping[str, list[int]]:
    """Rows of the sets of a ``splits.json`` as chemprop 2 writes it: a list of {train, val, test}.

    The rows are a list, or a text of ranges such as ``0-2,4``; rows in no set are left out.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, damaged or does not fit the table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} (data.init_args.split_file)")
    try:
        content = read_json(path)
        if not isinstance(content, list) or not content:
            raise ValueError("it is no list of splits")
        if number >= len(content):
            raise ValueError(f"it has {len(content)} splits, data.init_args.split_number is {number}")
        split = content[number]
        if not isinstance(split, dict) or set(split) != set(PARTS):
            raise ValueError(f"a split must have {', '.join(PARTS)}")
        parts = {name: _numbers(split[name], rows) for name in PARTS}
        every = [i for part in parts.values() for i in part]
        if len(set(every)) != len(every):
            raise ValueError("a row stands in it twice")
    except (ValueError, OSError, TypeError) as error:
        raise ValueError(f"{path} holds no split of these {rows:,} rows ({one_line(error)})") from None
    return parts


def _numbers(given: Any, rows: int) -> list[int]:
    if isinstance(given, str):
        found: list[int] = []
        for part in given.split(","):
            first, _, last = part.strip().partition("-")
            low, high = int(first), int(last or first)
            if not 0 <= low <= high < rows:
                raise ValueError(f"{part.strip()} are no rows of the table")
            found += range(low, high + 1)
        return found
    if not isinstance(given, list) or any(type(i) is not int or not 0 <= i < rows for i in given):
        raise ValueError(f"its rows must be whole numbers from 0 to {rows - 1}")
    return given


def write_splits(path: Path, parts: Mapping[str, Sequence[int]]) -> None:
    """A ``splits.json`` of one split, which chemprop 2 reads (``--splits-file``)."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps([{name: sorted(parts[name]) for name in PARTS}]))
