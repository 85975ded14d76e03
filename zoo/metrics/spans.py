"""Span F1 of named entities: an entity counts where its type and both its ends are right.

Spans are (first word, word after the last, type's name). Counts are summed over batches and processes, so
that the value is that of the whole set, never a mean of batches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

Span = tuple[int, int, str]


class SpanF1(Metric):
    """Micro-averaged F1 of exact spans, in all and by type or group.

    ``update`` takes the gold and the predicted spans of each sentence, and its group (a genre) where there
    are some. Without entities on either side the value is 0, as seqeval's ``zero_division=0``.

    Args:
        types: names of the types, of which the spans are.
        groups: names of the groups.
    """

    full_state_update = False
    hits: Tensor
    predicted: Tensor
    gold: Tensor

    def __init__(self, types: Sequence[str], groups: Sequence[str] = ()) -> None:
        super().__init__()
        self.types = {name: i for i, name in enumerate(types)}
        self.groups = list(groups)
        shape = (max(len(groups), 1), len(types))
        for name in ("hits", "predicted", "gold"):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        gold: Sequence[Sequence[Span]],
        predicted: Sequence[Sequence[Span]],
        groups: Sequence[int] | None = None,
    ) -> None:
        """Count one batch of sentences."""
        for i, (true, found) in enumerate(zip(gold, predicted, strict=True)):
            group = 0 if groups is None else int(groups[i])
            right = set(true)
            for counts, spans in (
                (self.gold, true),
                (self.predicted, found),
                (self.hits, right & set(found)),
            ):
                for *_, kind in spans:
                    counts[group, self.types[kind]] += 1

    def compute(self) -> dict[str, Tensor]:
        """``f1``, ``precision`` and ``recall`` over all, ``type_NAME_f1`` of each type, ``genre_NAME_f1`` of
        each group that has an entity on either side."""
        hits, predicted, gold = self.hits, self.predicted, self.gold
        found = {
            "f1": f1(hits.sum(), predicted.sum(), gold.sum()),
            "precision": hits.sum() / predicted.sum().clamp(min=1),
            "recall": hits.sum() / gold.sum().clamp(min=1),
        }
        for name, i in self.types.items():
            found[f"type_{key_of(name)}_f1"] = f1(hits[:, i].sum(), predicted[:, i].sum(), gold[:, i].sum())
        for i, name in enumerate(self.groups):
            if int((predicted[i] + gold[i]).sum()):
                found[f"genre_{key_of(name)}_f1"] = f1(hits[i].sum(), predicted[i].sum(), gold[i].sum())
        return found


def key_of(name: str) -> str:
    """A name as a part of a metric's: letters, digits, underscores."""
    return re.sub(r"\W+", "_", name)


def f1(hits: Tensor, predicted: Tensor, gold: Tensor) -> Tensor:
    """2 hits / (predicted + gold), 0 where both are 0."""
    return 2.0 * hits / (predicted + gold).clamp(min=1)


class Counts(NamedTuple):
    """Entities of one reading: MUC's categories."""

    correct: int = 0
    incorrect: int = 0
    partial: int = 0
    missed: int = 0
    spurious: int = 0

    def f1(self, partial_credit: bool = False) -> float:
        """F1; with ``partial_credit`` a partial match counts a half."""
        right = self.correct + 0.5 * self.partial * partial_credit
        total = self.correct + self.incorrect + self.partial
        both = (total + self.spurious) + (total + self.missed)
        return 2 * right / both if both else 0.0


SCHEMAS = ("exact", "partial", "type")


class OverlapF1(Metric):
    """F1 that forgives a wrong type or a wrong end (SemEval 2013 task 9.1, as nervaluate counts it).

    ``exact``: both ends are right, whatever the type. ``partial``: so, and an overlap counts a half, whatever
    the type. ``type``: an overlap of the right type is right. ``update`` takes gold and predicted spans.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(3, 5, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> None:
        """Count one batch of sentences."""
        for true, found in zip(gold, predicted, strict=True):
            for i, counts in enumerate(overlap_counts(true, found)):
                self.counts[i] += torch.tensor(counts, device=self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """``exact``, ``partial`` and ``type``."""
        rows = [Counts(*row) for row in self.counts.tolist()]
        return {
            name: torch.tensor(row.f1(partial_credit=name == "partial"))
            for name, row in zip(SCHEMAS, rows, strict=True)
        }


def overlap_counts(gold: Iterable[Span], predicted: Iterable[Span]) -> list[Counts]:
    """Counts of one sentence by each of :data:`SCHEMAS`.

    Predicted spans choose in order among the gold ones that no earlier one has taken: a right one, else the
    first that they overlap. Of several right types the one with the nearest ends is taken.
    """
    true, found = sorted(gold), sorted(predicted)
    return [_counts(true, found, schema) for schema in SCHEMAS]


def _counts(gold: list[Span], predicted: list[Span], schema: str) -> Counts:
    left = list(gold)
    correct = incorrect = partial = spurious = 0
    for span in predicted:
        over = [g for g in left if g[0] < span[1] and span[0] < g[1]]
        if schema == "type":
            right = [g for g in over if g[2] == span[2]]
            right.sort(key=lambda g: abs(g[0] - span[0]) + abs(g[1] - span[1]))
        else:
            right = [g for g in over if g[:2] == span[:2]]
        if right:
            correct += 1
        elif over and schema == "partial":
            partial += 1
        elif over:
            incorrect += 1
        else:
            spurious += 1
        if over:
            left.remove((right or over)[0])
    return Counts(correct, incorrect, partial, len(left), spurious)
