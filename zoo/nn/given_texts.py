"""What a call in Python is given: texts and counts, checked before anything is computed."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

_HALF = re.compile("[\ud800-\udfff]")  # JSON may escape one alone, and no tokenizer takes it


def given_texts(given: Any, what: str) -> list[str]:
    """The texts of a call; a single one is a list of it. Any iterable with an order is a list.

    Args:
        given: of the call.
        what: the name of one of them, ``document``.

    Raises:
        ValueError: in one line, for what is no text or list of texts, and for an item that is none.
    """
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Iterable) or isinstance(given, bytes | bytearray | memoryview | Mapping | Set):
        raise ValueError(f"{what}: a text is wanted, or a list of texts, not {_shown(given)}")
    try:
        items = list(given)
    except TypeError:  # a tensor of no dimension calls itself iterable
        raise ValueError(f"{what}: a text is wanted, or a list of texts, not {_shown(given)}") from None
    for number, text in enumerate(items, 1):
        if not isinstance(text, str):
            raise ValueError(f"{what} {number} is {type(text).__name__}, no text: give a list of strings")
        whole_text(text, f"{what} {number}")
    return items


def whole_text(text: str, name: str) -> str:
    """The text, which has no half of a character.

    Raises:
        ValueError: with its name.
    """
    if _HALF.search(text):
        raise ValueError(f"{name} holds half a character (\\ud800 to \\udfff), no text")
    return text


def given_count(given: Any, name: str) -> int:
    """A whole number of at least 1.

    Raises:
        ValueError: in one line, for anything else.
    """
    try:
        count = 0 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name} is {_shown(given)}, but must be a whole number of at least 1")
    return count


def _shown(given: Any) -> str:
    return " ".join(f"{given!r:.60}".split())
