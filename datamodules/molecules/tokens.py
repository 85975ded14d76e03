"""Tokens of SMILES and SELFIES, and a vocabulary of them.

``zoo`` and ``datamodules`` do not import each other: each has this file, with the same content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Representation = Literal["smiles", "selfies"]
PAD, BOS, EOS, UNK = range(4)
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
_SMILES = re.compile(
    r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>|\*|\$|%[0-9]{2}|[0-9])"
)
_SELFIES = re.compile(r"\[[^\]]*\]|\.")
_SHOWN = 60


def tokenised(text: str, representation: Representation = "smiles") -> list[str]:
    """The tokens of a SMILES, a reaction of such, or a SELFIES.

    Raises:
        ValueError: naming the molecule and the first character that belongs to no token.
    """
    found = (_SMILES if representation == "smiles" else _SELFIES).findall(text)
    if (joined := "".join(found)) != text:
        place = next((i for i, (a, b) in enumerate(zip(joined, text)) if a != b), len(joined))  # noqa: B905
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        raise ValueError(f"{shown!r}: {text[place]!r} at {place + 1} is no token of {representation.upper()}")
    return found


@dataclass(frozen=True)
class TokenVocabulary:
    """Ids of tokens: those of :data:`SPECIALS` first.

    Attributes:
        tokens: without the special ones.
        representation: of what they are tokens.
    """

    tokens: tuple[str, ...]
    representation: Representation = "smiles"

    @classmethod
    def of_texts(cls, texts: Iterable[Sequence[str]], representation: Representation) -> TokenVocabulary:
        """That of tokenised texts, in the order of the alphabet."""
        return cls(tuple(sorted({token for text in texts for token in text})), representation)

    @classmethod
    def of_document(cls, text: str) -> TokenVocabulary:
        """What :attr:`document` was made of.

        Raises:
            ValueError: for another document.
        """
        try:
            content = json.loads(text)
            tokens, representation = tuple(content["tokens"]), content["representation"]
            if representation not in ("smiles", "selfies") or len({*tokens, *SPECIALS}) != len(tokens) + 4:
                raise ValueError
            if not all(isinstance(token, str) and token for token in tokens):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError("the vocabulary among the weights has no tokens of molecules") from None
        return cls(tokens, representation)

    @property
    def document(self) -> str:
        """All of it as JSON."""
        content: dict[str, Any] = {"representation": self.representation, "tokens": list(self.tokens)}
        return json.dumps(content, ensure_ascii=False, sort_keys=True)

    def __len__(self) -> int:
        return len(self.tokens) + len(SPECIALS)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of each token."""
        return {token: i for i, token in enumerate(self.tokens, len(SPECIALS))}

    def encoded(self, tokens: Iterable[str]) -> list[int]:
        """Ids without ends; what is not known is UNK."""
        ids = self.ids
        return [ids.get(token, UNK) for token in tokens]

    def text(self, ids: Iterable[int]) -> str:
        """Tokens up to EOS, one after the other; special ones are left out, an unknown one is ``?``."""
        found: list[str] = []
        for i in ids:
            if i == EOS:
                break
            if i == UNK:
                found.append("?")
            elif i >= len(SPECIALS):
                found.append(self.tokens[i - len(SPECIALS)])
        return "".join(found)
