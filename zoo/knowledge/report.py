"""What predict leaves of a knowledge graph: answers in words, and a picture of how they rank."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.drawing import drawing, plain
from zoo.knowledge.scores import filtered_ranks
from zoo.reports import merged_records, write_records

_SHOWN = 10
_BARS = 25


@dataclass(frozen=True)
class Answer:
    """An entity as an answer.

    Attributes:
        entity: its name.
        score: of the triple.
        probability: softmax of the scores of all entities; for a network trained by cross-entropy that of
            the answer, for another one an order alone.
    """

    entity: str
    score: float
    probability: float


@dataclass
class Answers:
    """The best entities for each query.

    They become ``answers.csv`` (``head,relation,tail,asked,known,rank`` of the query, then the best ten with
    their probabilities) and, of queries with a right answer, ``ranks.png``. What the graph says already is
    left out of the ten, as it is of the rank; ``known`` is how many these are.

    Attributes:
        records: one of each query.
    """

    records: list[dict[str, Any]]

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        write_records(folder, self.records)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``answers.csv`` and, of queries whose answer is known, ``ranks.png``."""
        records = merged_records(folder)
        table = folder / "answers.csv"
        names = ("answer", "probability")
        columns = [f"{name}{i + 1}" for i in range(_SHOWN) for name in names]
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["head", "relation", "tail", "asked", "known", "rank", *columns])
            for record in records:
                best = [x for name, p in record["best"] for x in (name, f"{p:.6f}")]
                rank = "" if record["rank"] is None else f"{record['rank']:g}"
                writer.writerow([*record["triple"], record["asked"], record["known"], rank, *best])
        ranked = [r for r in records if r["rank"] is not None]
        if not ranked:
            return [table]
        picture = folder / "ranks.png"
        draw_ranks(picture, ranked)
        return [table, picture]


def best_answers(
    scores: Tensor, batch: Mapping[str, Tensor], entities: Sequence[str], relations: Sequence[str]
) -> Answers:
    """Records of a batch's queries from scores (B, N).

    Args:
        scores: of all entities.
        batch: of the data: ``head``, ``relation``, ``tail`` (-1 where it is asked for), ``known``, ``index``.
        entities: N names.
        relations: R names.
    """
    probability = scores.softmax(dim=1)
    asked = batch["tail"] < 0
    others = batch["known"].clone()
    place = batch["tail"].clamp(min=0)[:, None]
    others.scatter_(1, place, others.gather(1, place) & asked[:, None])
    order = scores.masked_fill(others, -torch.inf).argsort(dim=1, descending=True, stable=True)
    order = order[:, :_SHOWN]
    ranks = filtered_ranks(scores, batch["tail"].clamp(min=0), batch["known"]).tolist()
    records = []
    for i, (head, relation, tail) in enumerate(
        zip(*(batch[k].tolist() for k in ("head", "relation", "tail")), strict=True)
    ):
        right = "?" if tail < 0 else entities[tail]
        backwards = relation >= len(relations)
        name = relations[relation % len(relations)]
        ends = (right, name, entities[head]) if backwards else (entities[head], name, right)
        new = [e for e in order[i].tolist() if not bool(others[i, e])]
        best = [(entities[e], float(probability[i, e])) for e in new]
        rank = None if bool(asked[i]) else ranks[i]
        side = "head" if backwards else "tail"
        record = {"index": int(batch["index"][i]), "triple": ends, "asked": side, "rank": rank}
        records.append({**record, "known": int(others[i].sum()), "best": best})
    return Answers(records)


def draw_ranks(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """How the right answers rank, and the mean reciprocal rank of each relation."""
    ranks = np.array([r["rank"] for r in records])
    by_relation: dict[str, list[float]] = {}
    for r in records:
        by_relation.setdefault(r["triple"][1], []).append(1 / r["rank"])
    many = sorted(by_relation.items(), key=lambda item: (-len(item[1]), item[0]))[:_BARS]
    many.sort(key=lambda item: float(np.mean(item[1])))
    with drawing(path, 1, 2, figsize=(11, max(3.6, 0.24 * len(many) + 1.2)), dpi=100) as (_, axes):
        edges = np.unique(np.geomspace(1, max(ranks.max(), 2), 24).round())
        hits = [(ranks <= edge).mean() for edge in edges]
        axes[0].step(edges, hits, where="post", color="tab:blue")
        axes[0].set(xscale="log", xlabel="rank k among all entities (filtered)", ylim=(0, 1.02))
        axes[0].set_ylabel("share of right answers within k")
        axes[0].grid(alpha=0.3)
        mrr, hits_10 = np.mean(1 / ranks), np.mean(ranks <= 10)
        axes[0].set_title(f"{len(ranks):,} queries: MRR {mrr:.3f}, Hits@10 {hits_10:.3f}")
        names = [f"{plain(name, 34)} ({len(values)})" for name, values in many]
        axes[1].barh(names, [float(np.mean(values)) for _, values in many], color="tab:green")
        axes[1].set(xlabel="mean reciprocal rank", xlim=(0, 1))
        which = "each relation" if len(many) == len(by_relation) else f"the {len(many)} commonest relations"
        axes[1].set_title(f"{which} (queries)")
        axes[1].tick_params(axis="y", labelsize=8)
