"""What a translation must beat: the source as it is, and a dictionary of words learned from the pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

_MOST = 20_000
"""Pairs that the dictionary is learned from, the first."""
_NULL = ""


class Dictionary:
    """Word for word, by IBM model 1 (Brown et al. 1993): each source word becomes its likeliest target word.

    t(f|e) is estimated by expectation-maximisation from uniform, with an empty word on the source side.
    A word that no training pair has stays as it is.

    Args:
        pairs: (source, target) texts.
        rounds: of expectation-maximisation.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], rounds: int = 8) -> None:
        split = [([_NULL, *a.split()], b.split()) for a, b in pairs[:_MOST]]
        table: dict[str, dict[str, float]] = defaultdict(dict)
        for source, target in split:
            for e in source:
                for f in target:
                    table[e][f] = 1.0
        for _ in range(rounds):
            count: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
            for source, target in split:
                for f in target:
                    total = sum(table[e][f] for e in source)
                    for e in source:
                        count[e][f] += table[e][f] / total
            for e, row in count.items():
                total = sum(row.values())
                table[e] = {f: c / total for f, c in row.items()}
        # of equally likely words the first by the alphabet
        self.words = {
            e: min(row, key=lambda f: (-row[f], f)) for e, row in table.items() if row and e != _NULL
        }

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Translations of texts."""
        return [" ".join(self.words.get(word, word) for word in text.split()) for text in texts]


def copied(texts: Sequence[str]) -> list[str]:
    """The sources."""
    return list(texts)
