"""What any model must beat, from the same data: the most frequent reply, and the reply to the nearest
history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Baseline(Protocol):
    """Replies to histories."""

    def __call__(self, histories: Sequence[str]) -> list[str]: ...


class ConstantReply:
    """The most frequent reply of the training split, always; of equally frequent ones the first."""

    def __init__(self, replies: Sequence[str]) -> None:
        self.reply = Counter(replies).most_common(1)[0][0]

    def __call__(self, histories: Sequence[str]) -> list[str]:
        return [self.reply] * len(histories)


class Retrieval:
    """The reply to the training history of largest TF-IDF cosine (ParlAI's ``ir_baseline``)."""

    def __init__(self, histories: Sequence[str], replies: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.replies = list(replies)
        self.vectorizer = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True)
        self.known = self.vectorizer.fit_transform(histories).T.tocsr()

    def __call__(self, histories: Sequence[str]) -> list[str]:
        scores = self.vectorizer.transform(histories) @ self.known
        best = np.asarray(scores.argmax(axis=1)).ravel()
        return [self.replies[i] for i in best]


def adversarial_success(
    histories: Sequence[str], references: Sequence[str], generated: Sequence[str]
) -> float | None:
    """1 - accuracy of a classifier that tells (S, T) from (S, T'), trained on one half and asked on the
    other.

    A logistic regression on TF-IDF of words and word pairs, of the history and of the reply apart. 0.5 is
    what replies that cannot be told from gold ones have. None for fewer than 20 histories.
    """
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if len(histories) < 20:
        return None
    half = np.arange(len(histories)) % 2 == 0
    texts = [*references, *generated]
    label = np.repeat([0, 1], len(histories))
    train = np.tile(half, 2)
    columns: list[Any] = []
    for values in ([*histories, *histories], texts):
        vectorizer = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), min_df=2)
        try:
            vectorizer.fit([v for v, t in zip(values, train, strict=True) if t])
        except ValueError:  # no word stands twice
            continue
        columns.append(vectorizer.transform(values))
    if not columns:
        return None
    features = hstack(columns).tocsr()
    found = LogisticRegression(max_iter=200).fit(features[train], label[train])
    return float(1 - found.score(features[~train], label[~train]))
