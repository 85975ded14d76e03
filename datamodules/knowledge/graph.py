"""Knowledge graphs for link prediction: embedded ones, published splits, a user's own triples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from datamodules.knowledge.triples import (
    OPEN,
    SPLITS,
    KnownAnswers,
    Named,
    TripleItems,
    embedded,
    numbered,
    queries,
    read_triples,
    split,
)
from datamodules.loading.arguments import data_folder
from datamodules.loading.files import Array
from datamodules.loading.ranges import Many, Part, Seed, Workers, check_ranges
from datamodules.loading.terminal import say
from datamodules.loading.variants import Uses, check_variants
from datamodules.text.same_texts import SameTexts

Graph = Literal["umls", "kinships", "nations", "fb15k237", "wn18rr", "splits", "triples"]
FOLDERS = {"fb15k237": "FB15k-237", "wn18rr": "WN18RR", "splits": ""}
"""Graphs of three files, and their folders below ``$ZOO_DATA/knowledge``."""


class KnowledgeGraph(SameTexts):
    """Triples (head, relation, tail); every relation r of R has an inverse r + R.

    Training batch: ``head``, ``relation`` (0 .. 2R - 1) and ``tail`` int64 (B,), each triple once as
    (h, r, t) and once as (t, r + R, h); ``index``. Evaluation adds ``known`` bool (B, N): all entities that
    answer the query in any split, the right one among them. Prediction is over the queries of a file, whose
    ``tail`` is -1, or over the test triples.

    Args:
        graph: ``umls``, ``kinships`` or ``nations``, which this package has; ``fb15k237``, ``wn18rr`` or
            ``splits``, a folder with ``train.txt``, ``valid.txt`` and ``test.txt``; ``triples``, one file
            that is split here.
        root: folder of the three files; null is ``$ZOO_DATA/knowledge/FB15k-237`` and the like.
        triples: file of ``triples``.
        delimiter: between head, relation and tail.
        held_out: share of ``triples`` for validation, and as much for the test.
        seed: of that split.
        queries: file of ``head relation ?`` or ``? relation tail`` for predict.
        entities: names in the order of the embeddings; null is those of the files, sorted.
        relations: likewise.
        batch_size: global batch of queries.
        eval_batch_size: likewise.
        num_workers: loader processes.

    Raises:
        FileNotFoundError, ValueError: one line on files that are missing or hold something else.
    """

    items_are: ClassVar[str] = "triples"
    of_variants: ClassVar[dict[str, Uses]] = {
        "graph": {
            "root": tuple(FOLDERS),
            "triples": ("triples",),
            "held_out": ("triples",),
            "seed": ("triples",),
            "delimiter": {"graph": (*FOLDERS, "triples"), "queries": "a file"},
        }
    }
    of_weights: ClassVar[tuple[str, ...]] = ("entities", "relations")
    split_of_weights: ClassVar[tuple[str, ...]] = ("graph", "held_out", "seed")
    drop_last = False

    def __init__(
        self,
        graph: Graph = "umls",
        root: str | None = None,
        triples: str = "triples.tsv",
        delimiter: str = "\t",
        held_out: Part = 0.1,
        seed: Seed = 0,
        queries: str | None = None,
        entities: list[str] | None = None,
        relations: list[str] | None = None,
        batch_size: Many = 256,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(KnowledgeGraph, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        if graph not in get_args(Graph):
            raise ValueError(f"data.init_args.graph must be {', '.join(get_args(Graph))}, got {graph!r}")
        check_variants(KnowledgeGraph, locals())
        if len(delimiter) != 1:
            raise ValueError(f"data.init_args.delimiter must be one character, got {delimiter!r}")
        self.graph, self.triples, self.delimiter = graph, Path(triples), delimiter
        self.root = data_folder(root, f"knowledge/{FOLDERS.get(graph, '')}")
        self.held_out, self.seed, self.queries = held_out, seed, queries
        self.entities, self.relations = entities, relations
        self.num_entities = None if entities is None else len(entities)
        self.num_relations = None if relations is None else len(relations)
        self.facts: dict[str, Any] = {}
        self.parts: dict[str, Array] = {}

    def learned(self) -> Iterable[Sequence[str]]:
        """Triples to train on."""
        assert self.entities is not None
        assert self.relations is not None
        entities, relations = self.entities, self.relations
        return ((entities[h], relations[r], entities[t]) for h, r, t in self.parts["train"].tolist())

    def setup(self, stage: str) -> None:
        self.parts = self._parts()
        assert self.entities is not None
        assert self.relations is not None
        self.num_entities, self.num_relations = len(self.entities), len(self.relations)
        self.facts = {"entities": self.entities, "relations": self.relations}
        self._tell()
        n, r = len(self.entities), len(self.relations)
        known = KnownAnswers(np.concatenate(list(self.parts.values())), n, r)
        self.train_set = TripleItems(queries(self.parts["train"], r))
        self.val_set = TripleItems(queries(self.parts["valid"], r), known)
        self.test_set = TripleItems(queries(self.parts["test"], r), known)
        self.predict_set = None
        if self.queries is not None:
            self.predict_set = TripleItems(self._asked(Path(self.queries)), known)

    def _parts(self) -> dict[str, Array]:
        if self.graph != "triples" and self.graph not in FOLDERS:
            names, relations, parts = embedded(self.graph)
            if self.entities not in (None, names) or self.relations not in (None, relations):
                raise ValueError(
                    f"data.init_args.entities or relations are not those of graph: {self.graph}; leave them "
                    "out, or take the graph that the weights were trained on"
                )
            self.entities, self.relations = names, relations
            return parts
        if self.graph in FOLDERS:
            paths = {name: self.root / f"{name}.txt" for name in SPLITS}
            for path in paths.values():
                if not path.is_file():
                    raise FileNotFoundError(
                        f"no {path}; a graph with published splits is a folder (data.init_args.root) with "
                        "train.txt, valid.txt and test.txt, a triple a line: head, relation, tail"
                    )
            read = {name: read_triples(path, self.delimiter) for name, path in paths.items()}
        else:
            paths = {"train": self.triples}
            read = {"train": read_triples(self.triples, self.delimiter)}
        self._name(paths, read)
        assert self.entities is not None
        assert self.relations is not None
        found = {}
        for name, rows in read.items():
            numbers = numbered(paths[name], rows, self.entities, self.relations)
            found[name] = _once(paths[name], numbers)
        return (
            found
            if self.graph in FOLDERS
            else dict(split(self.triples, found["train"], self.held_out, self.seed))
        )

    def _name(self, paths: dict[str, Path], read: dict[str, list[Named]]) -> None:
        """The entities and relations of all files, sorted, where none are given."""
        for name, rows in read.items():
            for head, _, tail in rows:
                if OPEN in (head, tail):
                    raise ValueError(
                        f"{paths[name]}: a triple has {OPEN!r} for an entity, which is what a query asks "
                        "for; queries go into data.init_args.queries"
                    )
        if self.entities is None:
            self.entities = sorted({e for rows in read.values() for h, _, t in rows for e in (h, t)})
        if self.relations is None:
            self.relations = sorted({r for rows in read.values() for _, r, _ in rows})

    def _tell(self) -> None:
        """What is odd about the splits: triples in two of them, entities that training never sees."""
        assert self.entities is not None
        assert self.relations is not None
        train = {tuple(row) for row in self.parts["train"].tolist()}
        inverse = {(t, h) for h, _, t in train}
        seen = np.zeros(len(self.entities), dtype=bool)
        seen[self.parts["train"][:, [0, 2]].ravel()] = True
        say(
            f"{self.graph}: {len(self.entities):,} entities, {len(self.relations):,} relations, "
            f"{' / '.join(f'{len(self.parts[s]):,}' for s in SPLITS)} triples"
        )
        for name in SPLITS[1:]:
            rows = self.parts[name]
            copies = sum(tuple(row) in train for row in rows.tolist())
            unseen = int((~seen[rows[:, [0, 2]]]).any(axis=1).sum())
            if copies:
                say(f"{copies:,} of {len(rows):,} triples of {name} stand in the training triples too")
            if unseen:
                say(f"{unseen:,} of {len(rows):,} triples of {name} have an entity that training never sees")
        held = np.concatenate([self.parts[name] for name in SPLITS[1:]])
        linked = sum((h, t) in inverse for h, _, t in held.tolist())
        if linked > len(held) // 2 and self.graph in (*FOLDERS, "triples"):
            say(
                f"{linked:,} of {len(held):,} held-out pairs are linked the other way round in training: "
                "such a test is easy (FB15k and WN18 were given up for it)"
            )

    def _asked(self, path: Path) -> Array:
        """Queries (Q, 3) of a file, those for a head turned round."""
        assert self.entities is not None
        assert self.relations is not None
        named = read_triples(path, self.delimiter)
        for line, (head, _, tail) in enumerate(named, 1):
            if (head == OPEN) == (tail == OPEN):
                raise ValueError(
                    f"{path}, line {line}: a query has {OPEN!r} in place of its head or of its tail, not of "
                    f"{'both' if head == OPEN else 'neither'}"
                )
        rows = numbered(path, named, self.entities, self.relations)
        for_head = rows[:, 0] < 0
        rows[for_head] = rows[for_head][:, [2, 1, 0]] + np.array([0, len(self.relations), 0])
        return rows


def _once(path: Path, rows: Array) -> Array:
    """Each triple once, in the order of the file."""
    _, first = np.unique(rows, axis=0, return_index=True)
    if len(first) < len(rows):
        say(f"{path}: {len(rows) - len(first):,} of {len(rows):,} triples stand there more than once")
    return rows[np.sort(first)]
