"""Small twins of FB15k-237's and WN18RR's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def fake_knowledge(root: Path, entities: int = 40, relations: int = 3, triples: int = 400) -> Path:
    """``train.txt``, ``valid.txt``, ``test.txt`` and ``queries.tsv``.

    Relation k leads from an entity to the (k + 1)th after it.
    """
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    heads, kinds = rng.integers(0, entities, triples), rng.integers(0, relations, triples)
    rows = [
        f"/m/{h:03d}\t/is/{k}\t/m/{(h + k + 1) % entities:03d}" for h, k in zip(heads, kinds, strict=True)
    ]
    rows = list(dict.fromkeys(rows))
    parts = {"test": rows[:10], "valid": rows[10:20], "train": rows[20:]}
    for name, lines in parts.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "queries.tsv").write_text("/m/000\t/is/0\t?\n?\t/is/1\t/m/003\n")
    return root


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_knowledge(root)
    return {"data.init_args.batch_size": 16, "model.init_args.dim": 8}


def _without_files(init_args: dict[str, Any]) -> bool:
    return init_args.get("graph", "umls") in ("umls", "kinships", "nations")


TWINS = {"datamodules.KnowledgeGraph": _twin}
WITHOUT_FILES = {"datamodules.KnowledgeGraph": _without_files}
