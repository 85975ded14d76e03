"""The vocabulary of tokens among a network's weights."""

from __future__ import annotations

from typing import Any

from zoo.molecules.tokens import TokenVocabulary
from zoo.nn.data_fit import named, told
from zoo.nn.kept_text import KeptText


class KeptTokens(KeptText):
    """A :class:`zoo.molecules.tokens.TokenVocabulary` as its document."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self._made: tuple[str, TokenVocabulary] | None = None

    def take(self, data: Any) -> None:
        """That of the data (their attribute ``vocabulary``), compared with the one among the weights.

        Raises:
            ValueError: if they differ.
        """
        if text := told(data, "vocabulary"):
            self.fill(text, named(data))

    @property
    def tokens(self) -> TokenVocabulary:
        """Made once of a document.

        Raises:
            ValueError: for weights without one.
        """
        if not self.text:
            raise ValueError("these weights have no vocabulary: train them with molecules as strings")
        if self._made is None or self._made[0] != self.text:
            self._made = self.text, TokenVocabulary.of_document(self.text)
        return self._made[1]
