"""The tokenizer that a pair of networks was trained with, among their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoo.nn.kept_tokenizer import KeptTokenizer


class Vocabulary(KeptTokenizer):
    """Ids to texts and back; without a tokenizer a text is its ids."""

    def texts(self, rows: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Texts of (B, T) ids, special tokens left out."""
        if not self.text:
            listed = rows.tolist() if isinstance(rows, Tensor) else rows
            return [" ".join(map(str, row)) for row in listed]
        return super().texts(rows)

    def special(self, token: str) -> int | None:
        """Id of a special token, or None."""
        if not self.text:
            return None
        found: int | None = self.tokenizer.backend_tokenizer.token_to_id(token)
        return found

    def described(self) -> dict[str, Any]:
        """Which tokenizer it is: sha256 of its document, entries, and the longest text that is kept."""
        return {**super().described(), "longest": (self.value or {}).get("longest")}
