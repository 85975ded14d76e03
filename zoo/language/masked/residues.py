"""The alphabet of ESM-2: 33 tokens, of which 20 are the standard residues.

``zoo`` and ``datamodules`` do not import each other: each has this file, with the same content.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

ALPHABET = (
    *("<cls>", "<pad>", "<eos>", "<unk>"),
    *"LAGVSERTIDPKQNFYMHWC",
    *"XBUZO.-",
    *("<null_1>", "<mask>"),
)
CLS, PAD, EOS, UNK = range(4)
MASK = len(ALPHABET) - 1
FIRST, STANDARD = 4, 20
"""The standard residues are the ids from FIRST on."""
BLANK = "_"
"""Stands for a residue that is to be found, in what is predicted."""
_LETTERS = {token: i for i, token in enumerate(ALPHABET) if len(token) == 1}
_TABLE = np.full(256, UNK, dtype=np.int64)
for _letter, _id in [*_LETTERS.items(), (BLANK, MASK), ("J", _LETTERS["X"])]:
    _TABLE[ord(_letter)] = _id
_OTHER = re.compile(f"[^{''.join(map(re.escape, _LETTERS))}J]")


def cleaned(text: str, blanks: bool = False) -> str:
    """A sequence in capitals, without blanks within and the ``*`` of a stop codon at its end.

    Args:
        text: one letter a residue. J (leucine or isoleucine), which ESM lacks, is read as X.
        blanks: whether ``_`` may stand for a residue to be found.

    Raises:
        ValueError: naming the first letter that is no residue and its place, from 1.
    """
    found = "".join(text.split()).upper().removesuffix("*")
    plain = found.replace(BLANK, "X") if blanks else found
    if match := _OTHER.search(plain):
        shown = found[:30] + "..." * (len(found) > 30)
        raise ValueError(f"{shown!r}: {match[0]!r} at {match.start() + 1} is no residue")
    return found


def encoded(sequence: str) -> np.ndarray[Any, Any]:
    """Ids int64 (L,) of a cleaned sequence, without ends."""
    return _TABLE[np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)]


def letters(ids: Any) -> str:
    """The residues of ids; a mask is ``_``, other special tokens are left out."""
    return "".join(
        BLANK if i == MASK else ALPHABET[i] for i in map(int, ids) if i == MASK or FIRST <= i < MASK - 1
    )
