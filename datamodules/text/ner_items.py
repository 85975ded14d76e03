"""Sentences as batches, with or without what is known of their entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from datamodules.loading.loaders import BatchItems
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.text.conll import Sentence
from datamodules.text.schemes import Span, tags_of


class SentenceItems(BatchItems):
    """Sentences as batches: ``words`` (B lists of texts), ``tags`` int64 (B, T) with -1 at padding, ``genre``
    int64 (B,), ``index`` int64 (B,), and ``spans`` (B lists of (first, after the last, type)).

    Args:
        sentences: all of them.
        spans: of each, None for one without labels: its batch has no ``tags`` and no ``spans``.
        tag_ids: id of each tag.
        scheme: of the tags.
        genres: id of each genre.
        members: indices of the items; None takes all in order.
        rows: what ``index`` says of each sentence, its row in a file; None says its index.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        spans: Sequence[Sequence[Span] | None],
        tag_ids: Mapping[str, int],
        scheme: str,
        genres: Mapping[str, int],
        members: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        self.sentences, self.spans, self.tag_ids, self.scheme, self.genres = (
            sentences,
            spans,
            tag_ids,
            scheme,
            genres,
        )
        self.members, self.rows = members, rows

    def __len__(self) -> int:
        return len(self.sentences) if self.members is None else len(self.members)

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        places = batch_keys(keys)[1].tolist()
        return self.batch([i if self.members is None else self.members[i] for i in places])

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """The batch of sentences, by their index."""
        words = [list(self.sentences[i].words) for i in indices]
        found: dict[str, Any] = {
            "words": words,
            "genre": torch.tensor([self.genres.get(self.sentences[i].genre, 0) for i in indices]),
            "index": torch.tensor([i if self.rows is None else self.rows[i] for i in indices]),
        }
        spans = [self.spans[i] for i in indices]
        if any(s is None for s in spans):
            return found
        longest = max(map(len, words))
        tags = torch.full((len(words), longest), -1)
        for row, (sentence, entities) in enumerate(zip(words, spans, strict=True)):
            names = tags_of(entities or (), len(sentence), self.scheme)
            tags[row, : len(names)] = torch.tensor([self.tag_ids[name] for name in names])
        return {**found, "tags": tags, "spans": [list(s or ()) for s in spans]}


class RoundItems(SentenceItems):
    """Asked as (pass, index of the data set)."""

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        return self.batch(batch_keys(keys)[1].tolist())


def vocabulary_of(sentences: Sequence[Sentence]) -> tuple[list[str], list[str]]:
    """Words in lower case, and characters, of a text; sorted."""
    seen = {word for s in sentences for word in s.words}
    return sorted({word.lower() for word in seen}), sorted({c for word in seen for c in word})
