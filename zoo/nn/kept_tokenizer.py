"""The tokenizer among a network's weights, for a network that is used without its data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoo.nn.data_fit import named, told
from zoo.nn.kept_text import KeptText


class KeptTokenizer(KeptText):
    """A fast tokenizer of transformers as a document: the library's own JSON under ``tokenizer``, special
    tokens by their ``roles``, and what else a method keeps there."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self._made: tuple[str, Any] | None = None

    def take(self, data: Any) -> None:
        """That of the data (their attribute ``vocabulary``), compared with the one among the weights.

        Raises:
            ValueError: if they differ.
        """
        if text := told(data, "vocabulary"):
            self.fill(text, named(data))

    def differs(self, text: str, whose: str) -> str:
        own, other = self.value, json.loads(text)
        if not isinstance(own, dict) or not isinstance(other, dict):
            return super().differs(text, whose)
        keys = [k for k in sorted({*own, *other} - {"tokenizer", "roles"}) if own.get(k) != other.get(k)]
        if not keys:
            return (
                f"the weights were trained with another tokenizer than that of {whose}: leave "
                "data.init_args.tokenizer out, and theirs is taken"
            )
        theirs, ours = (", ".join(f"{k} {_said(d.get(k))}" for k in keys) for d in (own, other))
        # what both have is an argument of the data; a layout of texts is of their class
        if "template" not in keys and {*keys} <= {*own} & {*other}:
            advice = "leave out " + " and ".join(f"data.init_args.{k}" for k in keys)
            return f"the weights read texts with {theirs}, {whose} have {ours}: {advice}, or train anew"
        return (
            f"the weights read texts of another layout ({theirs}) than {whose} have ({ours}): choose data "
            "like those that they were trained on with data.class_path, or train anew"
        )

    @property
    def tokenizer(self) -> Any:
        """Made once of a document.

        Raises:
            ValueError: for weights without one, or with one that cannot be read.
        """
        if not self.text:
            raise ValueError("these weights have no tokenizer yet: they take that of their training data")
        if self._made is None or self._made[0] != self.text:
            self._made = self.text, _made_of(self.value)
        return self._made[1]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts without special tokens; a ``</s>`` that stands in a text is text."""
        found = self.tokenizer(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        ids: list[list[int]] = found["input_ids"]
        return ids

    def texts(self, rows: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Texts of ids, special tokens left out."""
        return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]

    def described(self) -> dict[str, Any]:
        """Which tokenizer it is, for the row of a table: sha256 of its document, and entries."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        return {"tokenizer": f"sha256 {digest}", "entries": len(self.tokenizer) if self.text else 0}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _made_of(content: Any) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        roles = {f"{role}_token": token for role, token in content["roles"].items()}
        made = Tokenizer.from_str(json.dumps(content["tokenizer"]))
        return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **roles)
    except Exception as error:  # the library's reader raises Exception itself
        text = " ".join(str(error).split())[:160]
        raise ValueError(f"the tokenizer among the weights cannot be read: {text}") from None
