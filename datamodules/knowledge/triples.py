"""Triples in files, and the answers of a query that are known."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.arrays import read_npz
from datamodules.loading.files import Array
from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.tables import cut, read_rows

Named = tuple[str, str, str]
OPEN = "?"
"""Stands where a query asks."""
SPLITS = ("train", "valid", "test")


def embedded(name: str) -> tuple[list[str], list[str], dict[str, Array]]:
    """Entities, relations and the triples int64 (M, 3) of each split of a graph of this package."""
    source = importlib.resources.files("datamodules.knowledge") / "files" / f"{name}.npz"
    with importlib.resources.as_file(source) as path:
        found = read_npz(path, "entities", "relations", *SPLITS)
    parts = {split: found[split].astype(np.int64) for split in SPLITS}
    return found["entities"].tolist(), found["relations"].tolist(), parts


def read_triples(path: Path, delimiter: str = "\t") -> list[Named]:
    """Lines of head, relation and tail, as FB15k-237 and WN18RR have them.

    Raises:
        FileNotFoundError, ValueError: naming the line that has no three names.
    """
    found: list[Named] = []
    for number, cells in read_rows(path, delimiter):
        if len(cells) != 3 or not all(cells):
            raise ValueError(
                f"{path}, line {number}: {len([c for c in cells if c])} names between "
                f"{'tabs' if delimiter == chr(9) else repr(delimiter)}, a triple is head, relation and tail"
            )
        found.append((cells[0], cells[1], cells[2]))
    if not found:
        raise ValueError(f"{path} holds no triples")
    return found


def numbered(
    path: Path, triples: Sequence[Named], entities: Sequence[str], relations: Sequence[str]
) -> Array:
    """Triples as rows of numbers (M, 3), -1 for :data:`OPEN`.

    Raises:
        ValueError: naming the first name that is neither.
    """
    of_entity, of_relation = ({name: i for i, name in enumerate(names)} for names in (entities, relations))
    of_entity.setdefault(OPEN, -1)
    rows = []
    for line, (head, relation, tail) in enumerate(triples, 1):
        for name, known, what in (
            (head, of_entity, "entity"),
            (relation, of_relation, "relation"),
            (tail, of_entity, "entity"),
        ):
            if name not in known:
                raise ValueError(
                    f"{path}, line {line}: {cut(name)} is no {what} of the "
                    f"{len(known) - (what == 'entity'):,} that the network has"
                )
        rows.append((of_entity[head], of_relation[relation], of_entity[tail]))
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def queries(triples: Array, relations: int) -> Array:
    """(2M, 3): each triple (h, r, t) as it is and, with the inverse relation, as (t, r + R, h)."""
    inverse = triples[:, [2, 1, 0]] + np.array([0, relations, 0])
    return np.stack([triples, inverse], axis=1).reshape(-1, 3)


class KnownAnswers:
    """All tails of each (head, relation), inverse relations among them, over every split.

    Args:
        triples: (M, 3) of all splits.
        entities: N.
        relations: R.
    """

    def __init__(self, triples: Array, entities: int, relations: int) -> None:
        both = queries(triples, relations)
        code = both[:, 0] * (2 * relations) + both[:, 1]
        order = np.lexsort((both[:, 2], code))
        self.entities, self.relations = entities, relations
        self.tails = both[order, 2]
        self.codes, self.starts = np.unique(code[order], return_index=True)
        self.ends = np.append(self.starts[1:], len(both))

    def mask(self, heads: Array, relations: Array) -> Tensor:
        """Which entities are known answers: bool (B, N)."""
        found = torch.zeros(len(heads), self.entities, dtype=torch.bool)
        code = heads * (2 * self.relations) + relations
        places = np.searchsorted(self.codes, code)
        for row, (place, wanted) in enumerate(zip(places, code, strict=True)):
            if place < len(self.codes) and self.codes[place] == wanted:
                found[row, torch.from_numpy(self.tails[self.starts[place] : self.ends[place]])] = True
        return found


class TripleItems(BatchItems):
    """Queries with their answers; ``known`` is there where the answers are ranked.

    Args:
        rows: queries (Q, 3): head, relation in 0 .. 2R - 1, tail or -1 where it is asked for.
        known: see :class:`KnownAnswers`; None leaves it out.
    """

    def __init__(self, rows: Array, known: KnownAnswers | None = None) -> None:
        self.rows, self.known = rows, known

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = batch_keys(keys)[1]
        chosen = self.rows[index]
        names = ("head", "relation", "tail")
        batch = {name: torch.from_numpy(chosen[:, i].copy()) for i, name in enumerate(names)}
        if self.known is not None:
            batch["known"] = self.known.mask(chosen[:, 0], chosen[:, 1])
        return {**batch, "index": torch.from_numpy(index)}


def split(path: Path, triples: Array, held_out: float, seed: int) -> Mapping[str, Array]:
    """Triples for training, validation and test; each entity and relation stays in the training ones.

    A triple is held out in the order of a permutation if its head, relation and tail all stand in another
    triple that is kept.

    Args:
        path: of the file, for the words.
        triples: (M, 3), each once.
        held_out: share of validation, and of the test.
        seed: of the permutation.

    Raises:
        ValueError: where too few can be held out.
    """
    wanted = int(held_out * len(triples))
    uses: dict[Any, int] = {}
    for h, r, t in triples.tolist():
        for key in {("e", h), ("e", t), ("r", r)}:
            uses[key] = uses.get(key, 0) + 1
    chosen: list[int] = []
    order = torch.randperm(len(triples), generator=torch.Generator().manual_seed(seed)).tolist()
    for i in order:
        if len(chosen) == 2 * wanted:
            break
        h, r, t = triples[i].tolist()
        own = {("e", h), ("e", t), ("r", r)}
        if all(uses[key] > 1 for key in own):
            chosen.append(i)
            for key in own:
                uses[key] -= 1
    if not wanted or len(chosen) < 2 * wanted:
        raise ValueError(
            f"{path}: data.init_args.held_out is {held_out} twice, of {len(triples):,} triples only "
            f"{len(chosen):,} can be held out so that each entity and relation is still trained"
        )
    test, valid = sorted(chosen[:wanted]), sorted(chosen[wanted:])
    kept = np.setdiff1d(np.arange(len(triples)), chosen)
    return {"train": triples[kept], "valid": triples[valid], "test": triples[test]}
