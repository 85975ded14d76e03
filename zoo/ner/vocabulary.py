"""Which words and characters the tagger knows: tensors of its own, so that weights bring them along.

A word is known by a 64-bit digest (BLAKE2b), a character by its code point; both lie in the state of the
module, whose shapes their numbers decide. A word that is looked up is tried as it is, in lower case, then
with 0 for each digit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.ner.network import BEGIN, END, FIRST, PAD, UNKNOWN, Encoded

_LONGEST_WORD = 60  # characters that are looked at: the rest of a longer word (an address) is left out
_DIGIT = re.compile(r"\d")


def key_of(word: str) -> int:
    """A word as a signed number of 64 bits."""
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def forms_of(word: str) -> tuple[str, str, str]:
    """A word as it is looked up: exact, lower case, lower case with 0 for digits."""
    lower = word.lower()
    return word, lower, _DIGIT.sub("0", lower)


class Vocabulary(nn.Module):
    """Words and characters as ids.

    Args:
        num_words: words besides the four marks.
        num_characters: characters besides the four marks.
    """

    words: Tensor
    characters: Tensor

    def __init__(self, num_words: int, num_characters: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(num_words, dtype=torch.int64))
        self.register_buffer("characters", torch.full((num_characters,), -1, dtype=torch.int64))
        self._ids: dict[str, int] = {}
        self._spelled: dict[str, list[int]] = {}
        self._tables: tuple[dict[int, int], dict[int, int]] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nobody has filled it."""
        return not bool((self.characters >= 0).any())

    def fill(self, words: Sequence[str], characters: Iterable[str]) -> None:
        """Take over a text's words and characters.

        Raises:
            ValueError: for more or fewer than there are places, or two words with one digest.
        """
        keys, points = [key_of(w) for w in words], [ord(c) for c in characters]
        if (len(keys), len(points)) != (len(self.words), len(self.characters)) or len(set(keys)) < len(keys):
            raise ValueError(
                f"the vocabulary has places for {len(self.words):,} words and {len(self.characters):,} "
                f"characters, given are {len(set(keys)):,} different of {len(keys):,} and {len(points):,}"
            )
        self.words.copy_(torch.tensor(keys))
        self.characters.copy_(torch.tensor(points))
        self._forget()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._forget()

    def _forget(self) -> None:
        self._tables, self._ids, self._spelled = None, {}, {}

    def _lookup(self) -> tuple[dict[int, int], dict[int, int]]:
        if self._tables is None:
            self._tables = (
                {key: i + FIRST for i, key in enumerate(self.words.tolist())},
                {point: i + FIRST for i, point in enumerate(self.characters.tolist()) if point >= 0},
            )
        return self._tables

    def id_of(self, word: str) -> int:
        """Id of a word, :data:`UNKNOWN` where no form of it is known."""
        if (known := self._ids.get(word)) is None:
            table = self._lookup()[0]
            known = next((table[k] for k in map(key_of, forms_of(word)) if k in table), UNKNOWN)
            self._ids[word] = known
        return known

    def spelled(self, word: str) -> list[int]:
        """Ids of a word's characters between begin and end."""
        if (known := self._spelled.get(word)) is None:
            table = self._lookup()[1]
            inner = [table.get(ord(c), UNKNOWN) for c in word[:_LONGEST_WORD]]
            known = self._spelled[word] = [BEGIN, *inner, END]
        return known

    def encode(self, sentences: Sequence[Sequence[str]], device: torch.device | str = "cpu") -> Encoded:
        """A batch of sentences, each of at least one word."""
        longest = max(map(len, sentences)) + 2
        spellings: dict[str | None, int] = {None: 1}  # 0 is padding, 1 begin and end of a sentence
        rows: list[list[int]] = [[PAD], [BEGIN, END]]
        words, forms = [], []
        for sentence in sentences:
            ids, places = [BEGIN], [1]
            for word in sentence:
                if word not in spellings:
                    spellings[word] = len(rows)
                    rows.append(self.spelled(word))
                ids.append(self.id_of(word))
                places.append(spellings[word])
            padding = [PAD] * (longest - len(ids) - 1)
            words.append([*ids, END, *padding])
            forms.append([*places, 1, *padding])
        width = max(map(len, rows))
        characters = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
        lengths = torch.tensor([len(s) for s in sentences])
        tensors = (torch.tensor(words), characters, torch.tensor(forms), lengths)
        return Encoded(*(t.to(device) for t in tensors))
