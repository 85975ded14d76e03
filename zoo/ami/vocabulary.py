"""The tokenizer that a pair of networks was trained with, among their weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoo.nn.data_fit import named, told
from zoo.nn.kept_text import KeptText


class Vocabulary(KeptText):
    """Ids to texts and back; without a tokenizer a text is its ids."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self._made: tuple[str, Any] | None = None

    def take(self, data: Any) -> None:
        """That of the data, compared with the one among the weights.

        Raises:
            ValueError: if they differ.
        """
        text = told(data, "vocabulary")
        if text:
            self.fill(text, named(data))

    @property
    def _tokenizer(self) -> Any:
        if not self.text:
            return None
        if self._made is None or self._made[0] != self.text:
            from tokenizers import Tokenizer

            try:
                made = Tokenizer.from_str(json.dumps(self.value["tokenizer"]))
            except Exception as error:  # the library's reader raises Exception itself
                raise ValueError(f"the vocabulary among the weights is no tokenizer: {error}") from None
            self._made = self.text, made
        return self._made[1]

    def texts(self, rows: Tensor) -> list[str]:
        """Texts of (B, T) ids, special tokens left out."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            return [" ".join(map(str, row)) for row in rows.tolist()]
        return [text.strip() for text in tokenizer.decode_batch(rows.tolist(), skip_special_tokens=True)]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, without special tokens."""
        tokenizer = self._tokenizer
        if tokenizer is None:
            raise ValueError("the weights have no tokenizer: train them on data that have one")
        return [found.ids for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def special(self, token: str) -> int | None:
        """Id of a special token, or None."""
        found: int | None = self._tokenizer.token_to_id(token) if self._tokenizer is not None else None
        return found

    def described(self) -> dict[str, Any]:
        """Which tokenizer it is: sha256 of its document, entries, and the longest text that is kept."""
        content = self.value or {}
        size = self._tokenizer.get_vocab_size() if self.text else 0
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        return {"tokenizer": f"sha256 {digest}", "entries": size, "longest": content.get("longest")}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}
