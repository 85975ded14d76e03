"""An exchange, a history and its reply, and the templates that make ids of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SPECIALS = ("<unk>", "<pad>", "<s>", "</s>", "<a>", "<b>", "<mask>")
"""Ids 0 to 6."""
Ids = list[int]


@dataclass(frozen=True)
class Exchange:
    """A history and its reply; of a translation the history is one sentence.

    Attributes:
        history: utterances, oldest first; the last is what the backward network recovers.
        reply: the target; "" where there is none, in a prediction.
        persona: sentences that lead a dialogue.
        candidates: replies among which the gold one is to be found.
        row: its line in a file of what is asked, from 1; 0 of others.
    """

    history: tuple[str, ...]
    reply: str = ""
    persona: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    row: int = 0


@dataclass
class Row:
    """Ids of an exchange.

    Attributes:
        source: of the forward network.
        target: without ends.
        context: of the backward network.
        recover: without ends.
    """

    source: Ids
    target: Ids
    context: Ids
    recover: Ids


@dataclass(frozen=True)
class PairTemplate:
    """Translation: source S, target T; the backward network recovers S from T.

    Attributes:
        longest: tokens of a source or target that are kept.
        history: utterances that are kept, the latest.
    """

    longest: int
    history: int = 1

    def row(self, history: Sequence[Ids], reply: Ids, persona: Sequence[Ids]) -> Row:
        """Ids of an exchange."""
        source = history[-1][: self.longest]
        return Row(source, reply[: self.longest], [], source)


@dataclass(frozen=True)
class DialogueTemplate:
    """Dialogue: persona ... ``<a>`` a1 ``<b>`` b1 ... ``<b>`` b2 ``<a> <mask>`` gives a3, and persona ...
    ``<a>`` a1 ``<b>`` b1 ... ``<b> <mask> <a>`` a3 gives b2.

    The last utterance is always ``<b>``'s. The preprocessing script has ``<mask>`` and then the tag.

    Attributes:
        longest: tokens of an utterance that are kept.
        history: utterances that are kept, the latest.
        tags: ids of ``<a>``, ``<b>``, ``<mask>``.
    """

    longest: int
    history: int
    tags: tuple[int, int, int]

    def row(self, history: Sequence[Ids], reply: Ids, persona: Sequence[Ids]) -> Row:
        """Ids of an exchange."""
        a, b, mask = self.tags
        kept = [ids[: self.longest] for ids in history[-self.history :]]
        before = [token for ids in persona for token in ids[: self.longest]]
        for number, ids in enumerate(kept[:-1]):
            # the last but one is <a>'s, the one before it <b>'s
            before += [(a, b)[(len(kept) - 2 - number) % 2], *ids]
        last = kept[-1]
        return Row([*before, b, *last, a, mask], reply[: self.longest], [*before, b, mask, a], last)


Template = PairTemplate | DialogueTemplate


def exchanges_of(turns: Sequence[str]) -> Iterator[Exchange]:
    """Each turn but the first with those before it."""
    for number in range(1, len(turns)):
        yield Exchange(tuple(turns[:number]), turns[number])
