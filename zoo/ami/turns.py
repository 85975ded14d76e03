"""A typed history as the ids that the data modules make of one, for a turn in Python."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.ami.vocabulary import Vocabulary
from zoo.reports import say


def batch_of(
    vocabulary: Vocabulary, utterances: Sequence[str], bos: int, eos: int, persona: Sequence[str] = ()
) -> dict[str, Tensor]:
    """``source``, ``context`` and ``recover`` (1, ...) of one history, as the data modules have
    them.

    Args:
        vocabulary: of the weights, which say what template they were trained with.
        utterances: oldest first; the last is answered.
        bos: id.
        eos: id.
        persona: sentences that lead the dialogue.

    Raises:
        ValueError: for weights without a vocabulary, a history without a word, and a persona where weights
            know pairs alone.
    """
    if not utterances or not all(text.strip() for text in utterances):
        raise ValueError("a history needs a word in each of its utterances")
    content = vocabulary.value or {}
    longest = int(content.get("longest", 100))
    read = int(content.get("history", 1))
    if len(utterances) > read:
        say(f"the last {read} of {len(utterances)} utterances are read")
    rows = vocabulary.ids(utterances[-read:])
    _tell(vocabulary, rows, longest)
    rows = [ids[:longest] for ids in rows]
    source, context = rows[-1], []
    if content.get("template") == "dialogue":
        a, b, mask = (vocabulary.special(token) for token in ("<a>", "<b>", "<mask>"))
        if a is None or b is None or mask is None:
            raise ValueError("the vocabulary among the weights lacks <a>, <b> or <mask>")
        before = [token for ids in vocabulary.ids(persona) for token in ids[:longest]] if persona else []
        for number, ids in enumerate(rows[:-1]):
            before += [(a, b)[(len(rows) - 2 - number) % 2], *ids]
        source, context = [*before, b, *rows[-1], a, mask], [*before, b, mask, a]
    elif persona:
        raise ValueError("these weights were trained on pairs, which have no persona")
    named = {"source": source, "context": context, "recover": [bos, *rows[-1], eos]}
    return {name: torch.tensor([ids], dtype=torch.long) for name, ids in named.items()}


def _tell(vocabulary: Vocabulary, rows: Sequence[Sequence[int]], longest: int) -> None:
    """Say what of a history is cut, and that none of its words is known."""
    if cut := sum(len(ids) > longest for ids in rows):
        say(f"{cut} of {len(rows)} utterances have more than {longest} tokens, of which so many are read")
    unknown = vocabulary.special("<unk>")
    if all(token == unknown for ids in rows for token in ids):
        say("the history has no word that these weights know")
