"""How much generated texts differ: distinct n-grams over all of them and within each, entropy, overlap.

Words are what white space separates. n-grams are kept as numbers of 63 bits, which two processes can share;
two of them meet by chance once in 10^18.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


def ngrams(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of a text, one after the other."""
    return (tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def _number(gram: Sequence[str]) -> int:
    digest = hashlib.blake2b("\0".join(gram).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def text_number(text: str) -> int:
    """63 bits that tell a text from others."""
    return _number([text])


class Diversity(Metric):
    """Distinct-1, -2 over all texts (inter) and per text (intra), Ent-4, length, number of different texts.

    Dist-n = distinct n-grams / n-grams over the whole set (Li et al. 2016). It falls with the number of
    texts: compare sets of one size, see :func:`check_comparable`. Ent-n = -sum_g p(g) ln p(g) over all
        n-grams.

    Attributes:
        replies: number of texts.
    """

    full_state_update = False
    grams_1: list[Tensor]
    grams_2: list[Tensor]
    grams_4: list[Tensor]
    texts: list[Tensor]
    intra: Tensor
    words: Tensor
    replies: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("grams_1", "grams_2", "grams_4", "texts"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.add_state("intra", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("words", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("replies", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, generated: Sequence[str]) -> None:
        found: dict[int, list[int]] = {1: [], 2: [], 4: []}
        for text in generated:
            words = text.split()
            self.words += len(words)
            for order, numbers in found.items():
                own = [_number(gram) for gram in ngrams(words, order)]
                numbers += own
                if order < 4:  # a text without n-grams repeats none
                    self.intra[order - 1] += len({*own}) / len(own) if own else 1.0
        self.replies += len(generated)
        kept = {"texts": [text_number(text) for text in generated]}
        kept |= {f"grams_{order}": numbers for order, numbers in found.items()}
        for name, numbers in kept.items():
            getattr(self, name).append(torch.tensor(numbers, dtype=torch.long, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """``distinct_1``, ``distinct_2``, ``intra_distinct_1``, ``intra_distinct_2``, ``entropy_4``,
        ``length`` in words, ``different``: share of different texts."""
        count = self.replies.clamp(min=1)
        found = {"length": self.words / count}
        for order in (1, 2):
            grams = _joined(getattr(self, f"grams_{order}"))
            found[f"distinct_{order}"] = torch.tensor(len(grams.unique()) / max(len(grams), 1))
            found[f"intra_distinct_{order}"] = self.intra[order - 1] / count
        found["entropy_4"] = entropy(_joined(self.grams_4).unique(return_counts=True)[1])
        texts = _joined(self.texts)
        found["different"] = torch.tensor(len(texts.unique()) / max(len(texts), 1))
        return {name: value.float() for name, value in found.items()}


def _joined(parts: Tensor | list[Tensor]) -> Tensor:
    """All of a list state; synchronised ones are one tensor already."""
    if isinstance(parts, Tensor):
        return parts
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def entropy(counts: Tensor) -> Tensor:
    """-sum p ln p of the frequencies of counted things; 0 without any."""
    p = counts.double() / counts.sum().clamp(min=1)
    return -(p * p.log()).sum()


def check_comparable(sets: Mapping[str, Diversity]) -> None:
    """Refuse to compare sets of different sizes: distinct n-grams fall with the number of texts.

    Raises:
        ValueError: naming two of them.
    """
    first = next(iter(sets), "")
    for name, metric in sets.items():
        if int(metric.replies) != int(sets[first].replies):
            raise ValueError(
                f"{first} has {int(sets[first].replies):,} replies, {name} has {int(metric.replies):,}: "
                "distinct "
                "n-grams fall with the number of replies, compare equally many"
            )


def unigram_f1(generated: str, reference: str) -> float:
    """Harmonic mean of precision and recall of words, counted with repetition (ParlAI's F1 without its
    removal of articles and punctuation)."""
    ours, theirs = generated.lower().split(), reference.lower().split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def repeats(generated: str, context: str) -> float:
    """Share of the words of a text that its context has, too."""
    words, before = generated.lower().split(), {*context.lower().split()}
    return sum(word in before for word in words) / len(words) if words else 0.0
