"""What a summary takes from its document: new n-grams, copied words, names and numbers that stand there."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

_WORD = re.compile(r"\w+(?:[-'.]\w+)*")
_NAMES = (
    *("novel_1grams", "novel_2grams", "novel_3grams", "length", "length_ratio"),
    *("copied", "names_in_source", "numbers_in_source"),
)


def words(text: str) -> list[str]:
    """Words and numbers as they stand, inner hyphens, points and apostrophes included."""
    return _WORD.findall(text)


def ngrams(tokens: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """Distinct runs of n."""
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


def novel_share(generated: Sequence[str], source: Sequence[str], n: int) -> float | None:
    """Share of the distinct n-grams of a summary that its document does not have; None where it has none."""
    own = ngrams(generated, n)
    return len(own - ngrams(source, n)) / len(own) if own else None


def longest_copy(generated: Sequence[str], source: Sequence[str]) -> float | None:
    """Share of a summary's words that lie in runs of three or more of its document (source-copy rate)."""
    if not generated:
        return None
    there, copied = ngrams(source, 3), [False] * len(generated)
    for i in range(len(generated) - 2):
        if tuple(generated[i : i + 3]) in there:
            copied[i : i + 3] = [True] * 3
    return sum(copied) / len(generated)


class SummaryStatistics(Metric):
    """Means over summaries of what they take from their documents; one that has no value is left out.

    ``novel_{1,2,3}grams``: share of distinct n-grams that the document lacks; ``length``: words;
    ``length_ratio``: by the reference's; ``copied``: share of words in runs of three or more of the document;
    ``names_in_source`` and ``numbers_in_source``: share of the capitalised words, but the first of a
    sentence, and of the numbers that stand in the document: a cheap measure of faithfulness.
    """

    full_state_update = False
    totals: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("totals", torch.zeros(len(_NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros(len(_NAMES), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, generated: Sequence[str], documents: Sequence[str], references: Sequence[str] | None = None
    ) -> None:
        for i, (text, document) in enumerate(zip(generated, documents, strict=True)):
            found = statistics(text, document, None if references is None else references[i])
            for place, name in enumerate(_NAMES):
                value = found[name]
                if value is not None:
                    self.totals[place] += value
                    self.items[place] += 1

    def compute(self) -> dict[str, Tensor]:
        """Those that any summary has."""
        means = (self.totals / self.items.clamp(min=1)).float()
        return {name: means[i] for i, name in enumerate(_NAMES) if int(self.items[i])}


def statistics(text: str, document: str, reference: str | None) -> dict[str, float | None]:
    """The numbers of one summary; None where it has nothing to count."""
    own, source = words(text), words(document)
    low, low_source = [w.lower() for w in own], [w.lower() for w in source]
    found: dict[str, float | None] = {f"novel_{n}grams": novel_share(low, low_source, n) for n in (1, 2, 3)}
    found["length"] = float(len(own))
    length = len(words(reference)) if reference is not None else 0
    found["length_ratio"] = len(own) / length if length else None
    found["copied"] = longest_copy(low, low_source)
    there = set(source)
    starts = {m.start() for m in re.finditer(r"(?:(?<=^)|(?<=[.!?]\s))\w", text)}
    names = [m[0] for m in _WORD.finditer(text) if m[0][0].isupper() and m.start() not in starts]
    numbers = [w for w in own if w[0].isdigit()]
    found["names_in_source"] = _share_in(names, there)
    found["numbers_in_source"] = _share_in(numbers, there)
    return found


def _share_in(items: Sequence[str], there: set[str]) -> float | None:
    return sum(item in there for item in items) / len(items) if items else None
