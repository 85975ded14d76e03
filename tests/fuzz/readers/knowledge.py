"""Triples of others through their data module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.knowledge import fake_knowledge
from fuzz.forked import Reader

from datamodules import KnowledgeGraph


def write_triples(root: Path) -> Path:
    return fake_knowledge(root, triples=60) / "train.txt"


def read_triples(path: Path) -> Any:
    data = KnowledgeGraph("triples", triples=str(path), batch_size=8)
    data.setup("fit")
    return [s.__getitems__([0, 1]) for s in (data.train_set, data.val_set, data.test_set)]


READERS = [Reader("triples of a knowledge graph", write_triples, read_triples)]
