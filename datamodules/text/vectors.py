"""Word vectors in text files: GloVe's, and word2vec's with a first line ``N d``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.text.records import lines_of

_WIDEST = 4096
_DIGIT = re.compile(r"\d")
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")


def forms_of(word: str) -> tuple[str, str, str]:
    """A word as it is looked up, in this order; as the tagger's vocabulary does."""
    lower = word.lower()
    return word, lower, _DIGIT.sub("0", lower)


def read_vectors(path: Path, words: Collection[str]) -> dict[str, Tensor]:
    """Vectors (d,) of those words that a file has, under the form that it has them in: exact, else lower
    case, else lower case with 0 for digits. The other lines are read past.

    Raises:
        FileNotFoundError, ValueError: naming the file and the line of what is no vector.
    """
    wanted = {form for word in words for form in forms_of(word)}
    found: dict[str, Tensor] = {}
    width = 0
    for number, line in lines_of(path):
        cells = line.rstrip().split(" ")
        if number == 1 and len(cells) == 2 and all(c.isdecimal() for c in cells):
            continue
        if not width:
            width = len(cells) - 1
            if not 1 < width <= _WIDEST:
                raise ValueError(
                    f"{path}, line {number}: {len(cells)} columns, expected a word and 2 to {_WIDEST} numbers"
                )
        # a token of GloVe may itself hold blanks: the numbers are the last columns
        word = " ".join(cells[:-width])
        if word not in wanted or word in found:
            continue
        try:
            values = np.array([float(c) for c in cells[-width:]], dtype=np.float32)
        except ValueError:
            raise ValueError(f"{path}, line {number}: no vector of {width} numbers") from None
        if len(values) != width or not word or not np.isfinite(values).all():
            raise ValueError(f"{path}, line {number}: no vector of {width} finite numbers")
        found[word] = torch.from_numpy(values)
    if not found:
        raise ValueError(f"{path}: has a vector of none of the {len(words):,} words of the data")
    # of a word's forms the first one that is there counts
    kept = {next((f for f in forms_of(word) if f in found), "") for word in words}
    return {word: found[word] for word in sorted(kept - {""})}


def words_of(text: str) -> list[str]:
    """Words and marks of a text."""
    return _WORD.findall(text)


class WordVectors:
    """The vectors of a file for the words of some texts.

    Args:
        path: of the file.
        texts: whose words are kept; all others have none.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_vectors`.
    """

    def __init__(self, path: Path, texts: Iterable[str]) -> None:
        words = {word for text in texts for word in words_of(text)}
        self.vectors = read_vectors(path, words)
        known = sum(self._of(word) is not None for word in words)
        width = len(next(iter(self.vectors.values())))
        self.name = f"{path.name}, {width} dimensions, of {known:,} of the data's {len(words):,} words"

    def _of(self, word: str) -> Tensor | None:
        return next((self.vectors[f] for f in forms_of(word) if f in self.vectors), None)

    def __call__(self, text: str) -> tuple[Tensor, int]:
        """Vectors (N, d) of those words of a text that have one, and the number of its words."""
        words = words_of(text)
        found = [vector for word in words if (vector := self._of(word)) is not None]
        width = len(next(iter(self.vectors.values())))
        return torch.stack(found) if found else torch.zeros(0, width), len(words)
